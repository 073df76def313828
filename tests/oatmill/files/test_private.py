"""Only the owner can read files that may contain secrets, whatever the umask."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oatmill.files.atomic import write_file
from oatmill.files.endpoints import write_endpoint
from recipes import cartpole
from runner.folder import RunFolder
from runner.local.child import Child
from runner.local.train import prepare
from runner.plan_report import report_plan


@pytest.fixture(autouse=True)
def open_to_all() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_replaces_a_file_that_everybody_could_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    (tmp_path / f"file.{os.getpid()}.tmp").write_text("left by a process of this id that was killed")
    write_file(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o600)
    write_file(path, b"newer")
    assert (path.read_text(), mode(path)) == ("newer", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_private_files_of_a_run_are_readable_only_by_their_owner_in_a_shared_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir(0o755)
    folder = RunFolder.new(run, "cartpole")
    prepare(folder, report_plan(cartpole.settings()))
    folder.write_run({"control": "ipc:///somewhere"})
    write_endpoint(run, "replay", {"pid": 1})
    child = Child("actor", 0, [sys.executable, "-c", "print(1)"], log=folder.log("actor", 0), threads=1)
    assert child.wait(time.monotonic() + 60)
    folder.release()
    private = ["config.yaml", "plan.txt", "run.json", "endpoints/replay.json", "logs/actor-0.log"]
    assert {name: mode(run / name) for name in private} == dict.fromkeys(private, 0o600)


def test_an_endpoint_is_not_written_into_a_deleted_run_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_endpoint(tmp_path / "run", "replay", {"pid": 1})
    assert not (tmp_path / "run").exists()
