"""A process that hangs writes its stacks and ends; one that waits or was paused does not. Real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oatmill.process.exit_codes import HUNG

ROOT = Path(__file__).resolve().parents[3]
HEAD = "import time, re, threading\nfrom oatmill.process import watchdog\nfrom oatmill.process.watchdog import Watchdog\n"


def run(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_loop_without_progress_is_ended_with_the_stacks_of_all_threads() -> None:
    script = """
def stuck_in_here():
    time.sleep(60)
threading.Thread(target=stuck_in_here, daemon=True).start()
dog = Watchdog("actor", 0.4)
dog.started()
threading.Event().wait(60)
"""
    process = run(script)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == HUNG
    assert "actor: no progress for 0." in errors
    assert "in stuck_in_here" in errors
    assert "in wait" in errors
    assert "oatmill: error:" not in errors, "it has not decided to end: it is to be started again"


def test_a_hang_in_c_code_that_keeps_the_interpreter_lock_is_ended() -> None:
    # A regular expression that backtracks for years holds the interpreter's lock all the while.
    script = """
watchdog.NATIVE_SLACK_S = 0.5
dog = Watchdog("actor", 0.5)
dog.started()
time.sleep(0.3)
def environment_step():
    re.match("(a+)+$", "a" * 64 + "b")
environment_step()
"""
    process = run(script)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Timeout" in errors
    assert "in environment_step" in errors


def test_a_process_with_progress_and_a_slow_start_are_not_ended() -> None:
    script = """
dog = Watchdog("learner", 0.8)
time.sleep(2)  # before `started`, ten times the limit may pass
assert dog.healthy
dog.started()
for _ in range(20):
    dog.beat()
    time.sleep(0.1)
assert dog.healthy
time.sleep(0.65)
assert not dog.healthy  # said before it ends
dog.beat()
dog.close()
time.sleep(1.5)
"""
    process = run(script)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_time_in_which_the_process_was_paused_does_not_count(number: signal.Signals) -> None:
    script = """
dog = Watchdog("supervisor", 2.0, native=False)
dog.started()
print("up", flush=True)
for _ in range(10):
    dog.beat()
    time.sleep(0.1)
print("done", flush=True)
"""
    process = run(script)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output, errors) == (0, "done\n", "")
