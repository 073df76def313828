from __future__ import annotations

from pathlib import Path

import pytest

from oatmill.errors import UserError
from runner.metrics_table import read_lines


def write(folder: Path, *lines: str) -> None:
    (folder / "metrics.jsonl").write_text("\n".join(lines))


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, '{"learner_step": 1}', '{"learner_step": 2}', '{"learner_step": 3, "episode_re')
    assert [line["learner_step"] for line in read_lines(tmp_path)] == [1, 2]


def test_another_damaged_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, '{"learner_step": 1}', '{"learner_st', '{"learner_step": 3}', "")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2, is damaged .* remove this line"):
        read_lines(tmp_path)


def test_a_run_with_one_line_that_is_cut_off_has_not_reported(tmp_path: Path) -> None:
    write(tmp_path, '{"learner_st')
    with pytest.raises(UserError, match="has not reported a learner step yet"):
        read_lines(tmp_path)


def test_a_run_without_the_file_has_not_reported_and_another_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read .* expected a run folder"):
        read_lines(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match=f"^{tmp_path}: the run has not reported a learner step yet$"):
        read_lines(tmp_path)
