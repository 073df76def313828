"""Systems other than Linux, simulated: a line where oatmill cannot run, a note where nobody has tried."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oatmill.errors import UserError
from oatmill.files.full_disk import RESERVE, RESERVE_BYTES, Reserve
from oatmill.system import check_system, system_note
from replay.log.disk import FolderDisk

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("platform", "noted"), [("linux", False), ("darwin", True)])
def test_linux_is_taken_and_macos_with_a_note(monkeypatch: pytest.MonkeyPatch, platform: str, noted: bool) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    check_system()
    assert (system_note() is not None) == noted
    assert "this is darwin" in (system_note() or "this is darwin")


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match=r"oatmill needs Linux .* got win32; on Windows, use WSL 2 or a container"):
        check_system()


@pytest.mark.parametrize(
    ("run", "ending"),
    [
        ("import deploy.cli as cli; cli.main()", "oatmill: error: oatmill needs Linux (macOS is not tested), got win32"),
        ("import oatmill", "ImportError: oatmill needs Linux (macOS is not tested), got win32"),
    ],
)
def test_the_command_and_the_import_say_so_in_one_line(run: str, ending: str) -> None:
    # Modules of other systems only, such as fcntl, must not be asked for before.
    script = f"import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; {run}"
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert shown.stderr.splitlines()[-1].startswith(ending)
    if "cli" in run:
        assert (shown.returncode, len(shown.stderr.splitlines())) == (2, 1)


def test_disk_space_is_reserved_without_posix_fallocate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    reserve = Reserve(tmp_path)
    reserve.keep()
    held = (tmp_path / RESERVE).stat()
    assert (held.st_size, held.st_blocks * 512 >= RESERVE_BYTES) == (RESERVE_BYTES, True)
    assert reserve.lend()
    reserve.keep()
    assert (tmp_path / RESERVE).stat().st_size == RESERVE_BYTES


def test_the_log_is_synced_without_fdatasync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.setattr(os, "fsync", synced.append)
    disk = FolderDisk(tmp_path, durable=True)
    disk.create("1.log")
    synced.clear()
    disk.sync()
    assert len(synced) == 1
