"""The heartbeat file, and the end of a process whose beats stay away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.alive import Heart
from protocol.errors import UserError
from protocol.watchdog import EXIT_HUNG

ROOT = Path(__file__).resolve().parents[2]


def test_a_beat_touches_the_file_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "heartbeat"
    heart, now = Heart(path), 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    try:
        heart.beat()
        os.utime(path, (0, 0))
        now = 100.5
        heart.beat()
        assert path.stat().st_mtime == 0
        now = 101.0
        heart.beat()
        assert path.stat().st_mtime > 0
    finally:
        heart.stop()


def test_without_a_file_nothing_is_watched(tmp_path: Path) -> None:
    Heart(None).beat()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    heart = Heart(tmp_path / "missing" / "heartbeat")
    with pytest.raises(UserError, match=r"^OATMILL_HEARTBEAT=.*missing/heartbeat cannot be written: No such file"):
        heart.beat()
    heart.stop()


HANGS = """
import sys, threading
from pathlib import Path
import actors.alive

actors.alive.HUNG_AFTER_S = 0.4
heart = actors.alive.Heart(Path(sys.argv[1]))
heart.beat()
if sys.argv[2] == "hangs":
    sorted(range(10), key=lambda number: 1 if number else threading.Lock().acquire() and threading.Event().wait())
heart.stop()
threading.Event().wait(0.6)
"""


@pytest.mark.parametrize(("does", "code"), [("hangs", EXIT_HUNG), ("ends", 0)])
def test_a_process_that_hangs_says_where_and_exits(tmp_path: Path, does: str, code: int) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path / "heartbeat"), does],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert shown.returncode == code, shown.stderr
    assert ("actor: no progress for" in shown.stderr and "lambda" in shown.stderr) == (does == "hangs")
