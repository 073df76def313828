"""What a run takes away before it begins: what an earlier one has left in a log's folder that both were given."""

from __future__ import annotations

from pathlib import Path

import pytest

from oatmill.errors import UserError
from recipes import cartpole
from runner.folder import RunFolder
from runner.local.train import Options, held_folder, prepare
from runner.plan_report import report_plan


@pytest.mark.parametrize(
    ("acknowledge", "resume", "left"),
    [
        ("memory", False, set()),
        ("memory", True, {"0000000003.buffer"}),
        ("durable", False, {"0000000003.buffer", "00000000000000000000.log"}),
        ("durable", True, {"0000000003.buffer", "00000000000000000000.log"}),
    ],
)
def test_books_go_with_a_server_that_is_gone_and_the_replay_buffer_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acknowledge: str, resume: bool, left: set[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = tmp_path / "shared"
    (shared / "buffer").mkdir(parents=True)
    (shared / "00000000000000000000.log").touch()
    (shared / "buffer" / "0000000003.buffer").touch()
    settings = cartpole.settings()
    settings.replay.log_dir = str(shared)
    settings.replay.acknowledge = acknowledge  # type: ignore[assignment]
    folder = RunFolder.new(tmp_path / "run", "cartpole")
    prepare(folder, report_plan(settings), resume=resume)
    folder.release()
    assert {path.name for path in shared.rglob("*") if path.is_file()} == left


def test_a_folder_with_a_file_that_cannot_be_read_is_refused_with_one_line_and_let_go(tmp_path: Path) -> None:
    RunFolder.new(tmp_path / "run", "cartpole").release()
    (tmp_path / "run" / "config.yaml").touch()
    (tmp_path / "run" / "summary.json").mkdir()  # as a user may who makes a copy with the wrong tool
    for _ in range(2):
        with (
            pytest.raises(UserError, match=r"summary\.json cannot be read: Is a directory; remove or repair it$"),
            held_folder(Options(run_dir=tmp_path / "run", resume=True), "cartpole"),
        ):
            pass
