"""Child processes: real ones, that end with their parent and are ended within bounded time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from oatmill.children.environment import PACKAGES_FOLDER, child_environment
from oatmill.process.exit_codes import USER_CODE_FAILED
from runner.local.child import Child, end_all
from tests.small_disks import fill, mounted

ROOT = Path(__file__).resolve().parents[3]
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def start(tmp_path: Path, code: str, role: str = "actor") -> Child:
    return Child(role, 0, [sys.executable, "-c", code], log=tmp_path / "child.log", threads=1)


def line_with(text: str, path: Path, within_s: float = 60.0) -> str:
    """A whole line: a child's output is not buffered, so that a line arrives in pieces."""
    deadline = time.monotonic() + within_s
    while True:
        for line in path.read_text().splitlines(keepends=True):
            if text in line and line.endswith("\n"):
                return line
        assert time.monotonic() < deadline, f"{text!r} did not appear in {path}"
        time.sleep(0.01)


def gone(pid: int, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def test_its_last_words_are_those_of_this_process_and_not_of_the_one_before(tmp_path: Path) -> None:
    first = start(tmp_path, "import sys; print('oatmill: error: the first'); sys.exit(2)")
    assert first.wait(time.monotonic() + 60)
    assert (first.exit_code, first.error, first.ending) == (2, "the first", "ended with exit code 2")
    second = start(tmp_path, "print('one'); print('two')")
    assert second.wait(time.monotonic() + 60)
    assert second.last_lines(5) == ["one", "two"]
    assert second.last_lines(1) == ["two"]
    assert second.error is None


SAYS = """
import sys
from oatmill.errors import UserCodeError
from oatmill.process.entry import run_to_exit
def fail():
    raise UserCodeError("the wall is gone")
sys.exit(run_to_exit(fail))
"""


def test_the_reason_of_a_failure_and_its_exit_code_survive_a_full_disk(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 1):
        fill(tmp_path / "disk")
        child = start(tmp_path / "disk", SAYS)
        assert child.wait(time.monotonic() + 60)
        assert (child.exit_code, child.error) == (USER_CODE_FAILED, "the wall is gone")
        assert child.ending == "ended with exit code 72"
        crashed = start(tmp_path / "disk", "1 / 0")
        assert crashed.wait(time.monotonic() + 60)
        assert crashed.last_lines(5) == []
        assert crashed.ending == "ended with exit code 1 (its log may lack the reason, because the disk is full)"


def test_a_deaf_process_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = start(tmp_path, DEAF)
    line_with("deaf", tmp_path / "child.log")
    began = time.monotonic()
    end_all([child], grace_s=0.2)
    assert child.exit_code == -signal.SIGKILL
    assert child.ending == "was killed by SIGKILL"
    assert time.monotonic() - began < 5


HANGS = """
from oatmill.process.watchdog import Watchdog

watchdog = Watchdog("actor", 0.2)
watchdog.started()


def step():
    while True:
        pass


step()
"""


def test_the_line_at_which_the_users_code_hung_is_named(tmp_path: Path) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    child = Child("actor", 0, [sys.executable, str(script)], log=tmp_path / "child.log", threads=1)
    assert child.wait(time.monotonic() + 60)
    how = "made no progress for longer than actors.hang_timeout and ended itself"
    assert re.fullmatch(rf"{how} \({script}:\d+, in step\)", child.ending)


def test_what_it_has_started_in_other_sessions_is_killed_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "print('inner', inner.pid, flush=True); time.sleep(60)"
    )
    child = start(tmp_path, code, role="learner")
    inner = int(line_with("inner", tmp_path / "child.log").split()[1])
    child.look()
    os.kill(child.pid, signal.SIGKILL)  # not by us: the way to the inner process is lost, unless it was looked for before
    assert child.wait(time.monotonic() + 60)
    child.kill()
    assert gone(inner)


FORKS_TWICE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print('orphan', os.getpid(), flush=True)
        time.sleep(60)
    os._exit(0)
os.wait()
"""


def test_what_a_child_has_left_behind_is_ended_although_it_ended_itself_in_order(tmp_path: Path) -> None:
    # As a game whose window outlives the environment: nothing leads from the child to it, neither a parent nor a session.
    child = start(tmp_path, FORKS_TWICE)
    orphan = int(line_with("orphan", tmp_path / "child.log").split()[1])
    assert child.wait(time.monotonic() + 60)
    assert psutil.pid_exists(orphan)
    end_all([child], grace_s=1)
    assert gone(orphan)


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from runner.local.child import Child\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        f"child = Child('actor', 0, sleep, log=Path({str(tmp_path)!r}) / 'log', threads=1)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
        assert gone(pid)


def test_ranks_are_found_by_their_numbers(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "for rank in (1, 0):\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], env={**os.environ, 'RANK': str(rank)})\n"
        "print('started', flush=True); time.sleep(60)"
    )
    child = start(tmp_path, code, role="learner")
    line_with("started", tmp_path / "child.log")
    deadline = time.monotonic() + 60
    while len(child.ranks) < 2 and time.monotonic() < deadline:
        child.look()
        time.sleep(0.01)
    assert [psutil.Process(pid).environ()["RANK"] for pid in child.ranks] == ["0", "1"]
    child.kill()


def test_a_child_finds_these_packages_and_has_bounded_threads() -> None:
    environment = child_environment({"PYTHONPATH": "/mine", "OMP_NUM_THREADS": "64"}, 3)
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "3"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert child_environment({"OMP_WAIT_POLICY": "ACTIVE"}, 3)["OMP_WAIT_POLICY"] == "ACTIVE"
    assert environment["PYTHONSAFEPATH"] == "1"
    assert environment["PYTHONPATH"] == f"{PACKAGES_FOLDER}{os.pathsep}/mine"


def test_a_folder_of_the_same_name_where_one_happens_to_stand_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "__init__.py").write_text("raise SystemExit('the wrong actors')")
    monkeypatch.chdir(tmp_path)
    child = start(tmp_path, "import actors.settings; print('ours')")
    assert child.wait(time.monotonic() + 60)
    assert child.last_lines(1) == ["ours"]
