"""The tests of losses and returns notice when one of them is changed; see tests/mutants.py."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests import mutants


def test_each_mutant_is_its_file_with_one_change() -> None:
    original = ast.unparse(ast.parse((mutants.ROOT / "learner/nodes/masks.py").read_text()))
    found = mutants.mutants_of("learner/nodes/masks.py")
    assert len({mutant.source for mutant in found}) == len(found) > 20
    assert original not in {mutant.source for mutant in found}


@pytest.mark.parametrize("names", [*mutants.TARGETS.values(), mutants.WIDE])
def test_the_tests_that_a_mutant_must_fail_are_there(names: tuple[str, ...]) -> None:
    assert len(mutants.files_of(names)) == len(names)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("file", mutants.TARGETS)
def test_every_mutant_is_killed_or_explained(file: str) -> None:
    # A process of its own: what this one has imported could not be changed any more.
    command = [sys.executable, "-m", "tests.mutants", file]
    run = subprocess.run(command, cwd=mutants.ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
