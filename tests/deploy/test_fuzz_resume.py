"""Whatever becomes of one file of a run's folder, `eval`, `train --resume` and a replay server go on or end with one line.

In the gate, tests/system/test_train.py goes on with a run whose small files are all damaged.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.fuzz_resume import COMMANDS, count


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_go_on_with_a_damaged_folder_or_end_with_one_line(tmp_path: Path) -> None:
    outcomes, wrong = count(tmp_path, [*COMMANDS, "resume"] * 8, seed=2)
    assert not wrong, outcomes
