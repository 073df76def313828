"""The heartbeat file of an actor in a container: as fresh as the actor is well in its watchdog's eyes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from actors.heartbeat import heartbeat_file
from oatmill.errors import UserError
from oatmill.process.watchdog import Watchdog


def test_the_file_is_touched_at_once_and_whenever_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    touch = heartbeat_file(path)
    assert touch is not None
    assert path.exists()
    os.utime(path, (0, 0))
    touch()
    assert path.stat().st_mtime > 0


def test_without_a_file_nothing_is_touched() -> None:
    assert heartbeat_file(None) is None


def test_a_file_that_cannot_be_written_is_one_line_at_the_start_and_no_end_later(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^OATMILL_HEARTBEAT=.*missing/heartbeat cannot be written: No such file"):
        heartbeat_file(tmp_path / "missing" / "heartbeat")
    (tmp_path / "folder").mkdir()
    touch = heartbeat_file(tmp_path / "folder" / "heartbeat")
    assert touch is not None
    (tmp_path / "folder" / "heartbeat").unlink()
    (tmp_path / "folder").rmdir()
    touch()


def test_an_actor_in_a_long_reset_is_well_until_half_of_its_hang_timeout_is_over(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    watchdog = Watchdog("actor", 4.0, native=False, alive=heartbeat_file(path))  # a tick a second
    try:
        watchdog.started()
        os.utime(path, (0, 0))
        time.sleep(1.5)  # no beat: the environment is busy
        assert path.stat().st_mtime > 0
        time.sleep(1.0)
        os.utime(path, (0, 0))
        time.sleep(1.2)  # more than half of the limit without a beat
        assert path.stat().st_mtime == 0
        watchdog.beat()
        time.sleep(1.2)
        assert path.stat().st_mtime > 0
    finally:
        watchdog.close()
