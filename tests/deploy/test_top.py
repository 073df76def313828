"""`oatmill top`: what a run's folder says, without a terminal and on one."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.cli.entry import run_command
from deploy.cli.top import event_line
from recipes import cartpole
from runner.folder import LOCK
from runner.settings import write_config

LINE = {
    "learner_step": 7,
    "env_steps": 5000,
    "losses": {"ppo_critic": {"raw": 2.5, "weighted": 1.25, "share": 0.75, "gradient_share": 0.5}},
    "red_flags": ["muesli_ratio"],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_config(cartpole.settings(), tmp_path / "config.yaml")
    (tmp_path / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")
    events = [{"time": 0.0, "event": "actor_joined", "actor": number} for number in range(9)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (tmp_path / LOCK).touch()
    return tmp_path


def test_without_a_terminal_the_newest_state_is_printed_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["top", "--run-dir", str(run)]) == 0
    shown = capsys.readouterr().out
    for expected in ("5,000 /", "ppo_critic", "75.0%", "50.0%", "muesli_ratio", "the run has ended", "actor_joined  actor 8"):
        assert expected in shown
    assert "actor 3" not in shown, "only the last few events"
    assert "\x1b" not in shown


def test_an_events_values_read_as_words_and_its_text_is_not_repeated() -> None:
    def shown(**event: object) -> str:
        return event_line({"time": 0.0} | event).partition("  ")[2]

    left = {"event": "actor_left", "actor": 2, "pid": 17, "how": "ended with exit code 0"}
    assert shown(**left) == "actor_left  actor 2, pid 17, ended with exit code 0"
    assert shown(event="started", resume=False) == "started"
    assert shown(event="started", resume=True) == "started  resume"
    assert shown(event="ended", outcome="stopped") == "ended  stopped"
    assert shown(event="actor_silent", text="actor 3 sends nothing", actor=3, reason="actor 3 sends nothing") == (
        "actor_silent  actor 3 sends nothing"
    )


def test_a_run_without_a_report_and_a_folder_without_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.jsonl").unlink()
    assert run_command(["top", "--run-dir", str(run), "--once"]) == 0
    assert "nothing is reported yet" in capsys.readouterr().out
    assert run_command(["top", "--run-dir", str(run / "elsewhere")]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_ctrl_c_ends_the_live_view_quietly(run: Path) -> None:
    ours, theirs = pty.openpty()
    with (run / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "deploy", "top", "--run-dir", str(run)]
        with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"}) as process:
            os.close(theirs)
            shown, deadline = b"", time.monotonic() + 60
            while b"the run is starting" not in shown and time.monotonic() < deadline:
                shown += os.read(ours, 65536)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    rest = os.read(ours, 65536)
    os.close(ours)
    assert b"Traceback" not in shown + rest
    assert b"ppo_critic" in shown


@pytest.mark.parametrize(
    ("file", "line"), [("metrics.jsonl", LINE | {"losses": 5}), ("events.jsonl", {"time": "noon", "event": "actor_joined"})]
)
def test_a_damaged_file_is_named_in_one_line(
    file: str, line: dict[str, object], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / file).write_text(json.dumps(line) + "\n")
    assert run_command(["top", "--run-dir", str(run), "--once"]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(f"oatmill: error: {run / file} is damaged, or was written by another version of oatmill (")
