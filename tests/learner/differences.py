"""The largest difference between the code and each of its oracles: `python -m tests.learner.differences`.

It runs the tests that compare with an oracle and notes what each comparison finds; a test only says that it is small enough.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

FILES = (
    "test_advantage_scale",
    "nodes/test_return_estimators",
    "nodes/test_network",
    "nodes/test_rlax",
    "losses/test_ppo_critic",
    "losses/test_cmpo",
    "losses/test_cmpo_sampled",
    "losses/test_ppo_actor",
    "losses/test_muesli_pg",
    "losses/test_dynamics",
    "losses/test_muesli_model",
    "update/test_objective",
)


class Notes:
    """Keeps the largest difference of each test; a plug-in of pytest."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}
        self.test = ""

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Which test the next comparisons belong to."""
        self.test = f"{item.path.stem.removeprefix('test_')}: {item.name.partition('[')[0]}"

    def note(self, actual: Any, expected: Any) -> None:
        """Take a comparison in."""
        ours, theirs = (
            np.asarray(value.detach() if isinstance(value, torch.Tensor) else value) for value in (actual, expected)
        )
        if ours.size and ours.dtype.kind == "f":
            difference = float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())
            self.largest[self.test] = max(self.largest.get(self.test, 0.0), difference)


def listening(compare: Any, notes: Notes) -> Any:
    """A comparison that also notes what it finds."""

    def heard(actual: Any, expected: Any, *rest: Any, **options: Any) -> None:
        notes.note(actual, expected)
        compare(actual, expected, *rest, **options)

    return heard


def main() -> int:
    """Run and print; pytest's exit code."""
    notes = Notes()
    np.testing.assert_allclose = listening(np.testing.assert_allclose, notes)
    torch.testing.assert_close = listening(torch.testing.assert_close, notes)
    code = pytest.main(["-q", "-p", "no:cacheprovider", *(f"tests/learner/{name}.py" for name in FILES)], plugins=[notes])
    for test, difference in sorted(notes.largest.items(), key=lambda entry: -entry[1]):
        sys.stdout.write(f"{difference:9.1e}  {test}\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
