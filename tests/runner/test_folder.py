"""The run folder: one run's at a time, found by other commands, readable whatever happens."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oatmill.errors import UserError
from oatmill.files.json_lines import JsonLines, last_line
from runner.folder import RunFolder, find_run, is_held, read_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_name_a_run_goes_below_runs_and_is_the_newest(elsewhere: Path) -> None:
    for _ in range(2):  # two in one second have different folders
        folder = RunFolder.new(None, "own:recipe")
        folder.config.write_text("{}")
        folder.point_latest()
        assert folder.path.parent == elsewhere / "runs"
        assert folder.path.name.startswith("own-recipe-")
        assert find_run(None) == folder.path
        folder.release()
    assert len([path for path in (elsewhere / "runs").iterdir() if not path.is_symlink()]) == 2


def test_runs_that_are_started_in_the_same_instant_all_get_a_folder_of_their_own(elsewhere: Path) -> None:
    at_once = threading.Barrier(80)

    def start(_number: int) -> RunFolder:
        at_once.wait(60)
        folder = RunFolder.new(None, "cartpole")
        folder.config.write_text("{}")
        folder.point_latest()
        return folder

    with ThreadPoolExecutor(80) as pool:
        folders = list(pool.map(start, range(80)))
    assert len({folder.path for folder in folders}) == 80
    assert find_run(None) in {folder.path for folder in folders}
    assert len(list((elsewhere / "runs").iterdir())) == 81  # and the link, with nothing half-made beside it
    for folder in folders:
        folder.release()


def test_a_place_where_no_folder_can_be_made_is_told_in_one_line(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "runs").touch()
    with pytest.raises(
        UserError, match=r"^--run-dir .*/runs cannot be created or written to: Not a directory; choose another folder$"
    ):
        RunFolder.new(None, "cartpole")
    (elsewhere / "gone").mkdir()
    monkeypatch.chdir(elsewhere / "gone")
    (elsewhere / "gone").rmdir()
    for ask in (lambda: RunFolder.new(None, "x"), lambda: RunFolder.new(Path("run"), "x"), lambda: find_run(None)):
        with pytest.raises(UserError, match=r"^the current folder no longer exists; change to another folder$"):
            ask()


def test_a_folder_that_is_made_is_its_owners_and_one_that_was_there_keeps_its_mode(elsewhere: Path) -> None:
    before = os.umask(0o022)
    try:
        (elsewhere / "shared").mkdir(0o755)
        modes = []
        for path in (elsewhere / "far" / "own", elsewhere / "shared"):
            RunFolder.new(path, "cartpole").release()
            modes.append(stat.S_IMODE(path.stat().st_mode))
        folder = RunFolder.new(None, "cartpole")
        modes.append(stat.S_IMODE(folder.path.stat().st_mode))
        folder.release()
    finally:
        os.umask(before)
    assert modes == [0o700, 0o755, 0o700]
    assert stat.S_IMODE((elsewhere / "far").stat().st_mode) == 0o755


def test_the_newest_run_is_found_wherever_it_lies(elsewhere: Path) -> None:
    folder = RunFolder.new(elsewhere / "far" / "away", "cartpole")
    folder.config.write_text("{}")
    folder.point_latest()
    assert find_run(None) == elsewhere / "far" / "away"
    folder.release()


def test_a_run_that_is_refused_leaves_the_newest_run_before_it_the_newest(elsewhere: Path) -> None:
    first = RunFolder.new(None, "cartpole")
    first.config.write_text("{}")
    first.point_latest()
    first.release()
    for before in (first.path, None):
        if before is None:
            (elsewhere / "runs" / "latest").unlink()
        refused = RunFolder.new(None, "cartpole")
        refused.config.write_text("{}")
        refused.point_latest()
        assert find_run(None) == refused.path
        refused.release(remove=True)
        assert not refused.path.exists()
        if before is None:
            assert not (elsewhere / "runs" / "latest").is_symlink()
        else:
            assert find_run(None) == before


def test_a_refused_run_does_not_take_the_link_from_a_run_that_started_after_it() -> None:
    refused, newer = RunFolder.new(None, "cartpole"), RunFolder.new(None, "cartpole")
    for folder in (refused, newer):
        folder.config.write_text("{}")
        folder.point_latest()
    refused.release(remove=True)
    assert find_run(None) == newer.path
    newer.release()


def test_a_link_to_a_run_that_was_deleted_says_so(elsewhere: Path) -> None:
    (elsewhere / "runs").mkdir()
    (elsewhere / "runs" / "latest").symlink_to("cartpole-1")
    with pytest.raises(UserError, match="runs/latest points to cartpole-1, which does not exist; give a run's folder"):
        find_run(None)


def test_a_real_folder_called_latest_is_left_alone(elsewhere: Path) -> None:
    (elsewhere / "runs" / "latest").mkdir(parents=True)
    folder = RunFolder.new(None, "cartpole")
    folder.point_latest()
    assert not (elsewhere / "runs" / "latest").is_symlink()
    folder.release()


def test_an_empty_folder_may_be_used_and_one_that_holds_something_may_not(elsewhere: Path) -> None:
    (elsewhere / "empty").mkdir()
    RunFolder.new(elsewhere / "empty", "cartpole").release()
    with pytest.raises(UserError, match="exists and is not empty; choose another --run-dir, or continue it with --resume"):
        RunFolder.new(elsewhere / "empty", "cartpole")
    (elsewhere / "file").touch()
    with pytest.raises(UserError, match="must be a new or empty folder, got a file"):
        RunFolder.new(elsewhere / "file", "cartpole")
    with pytest.raises(UserError, match="cannot be created or written to"):
        RunFolder.new(elsewhere / "file" / "below", "cartpole")


def test_a_second_supervisor_is_kept_out_even_by_another_process(elsewhere: Path) -> None:
    folder = RunFolder.new(elsewhere / "run", "cartpole")
    folder.config.write_text("{}")
    assert is_held(folder.path)
    with pytest.raises(UserError, match="another run is active in"):
        RunFolder.existing(folder.path)
    code = f"from pathlib import Path; from runner.folder import RunFolder; RunFolder.new(Path({str(folder.path)!r}), 'x')"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert "another run is active in" in other.stderr
    folder.release()
    assert not is_held(folder.path)
    RunFolder.existing(folder.path).release()


def test_a_refused_run_leaves_nothing_of_a_folder_that_was_made_for_it(elsewhere: Path) -> None:
    RunFolder.new(elsewhere / "made" / "below", "cartpole").release(remove=True)
    assert not (elsewhere / "made").exists()
    (elsewhere / "given").mkdir()
    RunFolder.new(elsewhere / "given", "cartpole").release(remove=True)
    assert (elsewhere / "given").exists()


def test_run_json_is_its_owners_and_is_believed_only_while_the_run_goes_on(elsewhere: Path) -> None:
    folder = RunFolder.new(elsewhere / "run", "cartpole")
    folder.config.write_text("{}")
    before = os.umask(0)
    try:
        folder.write_run({"control": "ipc:///somewhere"})
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder.path / "run.json").stat().st_mode) == 0o600
    assert read_run(folder.path) == {"control": "ipc:///somewhere"}
    folder.release()
    with pytest.raises(
        UserError, match=r"no run is active in .*; its processes were killed; it has no checkpoint, so start it "
    ):
        read_run(folder.path)
    (folder.path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match=r"no run is active in .*; it has ended, see its summary\.json; it has no checkpoint"):
        read_run(folder.path)


def test_a_folder_that_is_no_runs_says_what_was_expected(elsewhere: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run folder: expected a folder with config\.yaml"):
        find_run(elsewhere)
    with pytest.raises(UserError, match=r"there is no run in .*; start one with `oatmill train`"):
        find_run(None)


def test_events_are_lines_of_json(elsewhere: Path) -> None:
    folder = RunFolder.new(elsewhere / "run", "cartpole")
    folder.event("actor_restarted", actor=3)
    folder.event("ended", outcome="done")
    lines = [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["actor_restarted", "ended"]
    assert lines[0]["actor"] == 3
    assert lines[0]["time"] <= lines[1]["time"]
    folder.release()


def test_a_growing_file_is_read_line_by_line_and_never_half_a_line(elsewhere: Path) -> None:
    path = elsewhere / "metrics.jsonl"
    path.write_text('{"learner_step": 0}\n')
    lines = JsonLines(path)  # what was there before belongs to an earlier part of the run
    assert lines.new() == []
    with path.open("a") as file:
        file.write('{"learner_step": 1}\n{"learner')
        file.flush()
        assert lines.new() == [{"learner_step": 1}]
        assert lines.new() == []
        file.write('_step": 2}\n')
    assert lines.new() == [{"learner_step": 2}]
    assert lines.count == 2
    assert last_line(path) == {"learner_step": 2}
    assert last_line(elsewhere / "nothing.jsonl") is None
