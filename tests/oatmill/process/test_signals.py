from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oatmill.process.signals import StopFlag

ROOT = Path(__file__).resolve().parents[3]

# A shell's background job ignores Ctrl-C, and nohup's SIGHUP.
HEED = """\
import signal

for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""
# As while torch is imported: the signal falls into text that is executed, where dataclasses make their methods.
PROGRAM = """\
import os, signal, sys
from oatmill.process.signals import sigterm_interrupts

try:
    with sigterm_interrupts():
        exec("os.kill(os.getpid(), signal.SIGTERM)\\nfor _ in range(10**6): pass")
except KeyboardInterrupt:
    sys.exit(130)
"""


IMPORTS = """\
import sys
from oatmill.process.signals import sigterm_interrupts

try:
    with sigterm_interrupts() as stops:
        import slow
        slow.wait()
        print("not stopped")
except KeyboardInterrupt:
    print("imported whole:", sys.modules["slow"].whole)
    sys.exit(130)
"""
# An exception in the middle of it would abort the process if this were an extension in C++, as torch has them.
SLOW = """\
import os, signal, time
os.kill(os.getpid(), signal.SIG)
time.sleep(0.2)
whole = True

def wait():
    time.sleep(60)
"""
# Python drops an exception in a finaliser.
LOST = """\
import os, signal, sys, time
from oatmill.process.signals import sigterm_interrupts

class Kept:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

try:
    with sigterm_interrupts() as stops:
        Kept()
        print("lost", flush=True)
        stops.check()
        print("not stopped")
except KeyboardInterrupt:
    sys.exit(130)
"""
TWICE = """\
import os, signal, sys, time
from oatmill.process.signals import sigterm_interrupts

try:
    with sigterm_interrupts():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # the same stop, delivered again
            time.sleep(0.1)
            print("taken back")
except KeyboardInterrupt:
    sys.exit(130)
"""


def run(folder: Path, program: str) -> tuple[int, str]:
    (folder / "program.py").write_text(HEED + program)
    done = subprocess.run(
        [sys.executable, "-m", "program"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stop_during_an_import_is_raised_after_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "slow.py").write_text(SLOW.replace("signal.SIG)", f"signal.{name})"))
    assert run(tmp_path, IMPORTS) == (130, "imported whole: True\n")


def test_an_import_that_hangs_does_not_delay_a_stop_for_ever(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    hurried = "import oatmill.process.signals\noatmill.process.signals.IMPORT_WITHIN_S = 0.3\n"
    assert run(tmp_path, hurried + IMPORTS.replace('sys.modules["slow"].whole', '"slow" in sys.modules')) == (
        130,
        "imported whole: False\n",
    )


def test_a_stop_whose_exception_python_drops_is_raised_later(tmp_path: Path) -> None:
    assert run(tmp_path, LOST) == (130, "lost\n")


def test_a_stop_that_is_delivered_twice_does_not_interrupt_cleanup(tmp_path: Path) -> None:
    assert run(tmp_path, TWICE) == (130, "taken back\n")


def test_a_process_that_is_interrupted_inside_exec_keeps_its_own_exit_code(tmp_path: Path) -> None:
    assert run(tmp_path, PROGRAM) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_flag_is_set_by_a_signal_and_calls_back_each_time(number: signal.Signals) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    passed_on: list[int] = []
    try:
        stop = StopFlag(lambda: passed_on.append(1))
        assert not stop.is_set
        signal.raise_signal(number)
        signal.raise_signal(number)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert stop.is_set
    assert len(passed_on) == 2
