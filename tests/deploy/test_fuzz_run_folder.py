"""Whatever becomes of one file of an ended run's folder, a command goes on or ends with one line and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.fuzz_run_folder import count, ended_run

pytestmark = pytest.mark.slow


def test_no_damaged_file_of_a_run_folder_is_taken_for_a_defect(tmp_path: Path) -> None:
    outcomes, defects = count(ended_run(tmp_path), rounds=1, seed=0)
    assert not defects
    assert sum(outcomes.values()) > 100
    assert not [how for how in outcomes if " lines" in how]
