"""Processes that a role has started are found and ended, and no others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from oatmill.children.family import FAMILY, Guardian, end_families, members, new_tag

ROOT = Path(__file__).resolve().parents[3]
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(120)"]
FORKS_TWICE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, '-S', '-c', 'import time; time.sleep(120)'])
    os._exit(0)
os.wait()
"""


@pytest.fixture
def tag() -> Iterator[str]:
    made = new_tag()
    yield made
    end_families([made])


def start(tag: str, code: str, **environ: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", "-c", code], env={**os.environ, **environ, FAMILY: tag}, start_new_session=True
    )


def session_of(pid: int) -> int | None:
    """The session of a process; None if it has ended in the meantime."""
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


def until(done: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, f"nothing like this within {within_s:g} s"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_process_that_forked_twice_into_its_own_session_is_ended_with_its_role(tag: str) -> None:
    with start(tag, FORKS_TWICE) as role:
        role.wait(60)
        (orphan,) = members([tag])
        assert os.getsid(orphan) != role.pid
        assert end_families([tag]) == [orphan]
    until(lambda: not members([tag]))


def test_other_processes_are_not_killed(tag: str) -> None:
    others = [
        subprocess.Popen(SLEEP, start_new_session=True),  # the user's own
        subprocess.Popen(SLEEP, env={**os.environ, FAMILY: new_tag()}, start_new_session=True),  # another run's
        subprocess.Popen(SLEEP, env={**os.environ, f"MY_{FAMILY}": tag}, start_new_session=True),  # a variable that ends alike
        subprocess.Popen(SLEEP, env={**os.environ, FAMILY: f"{tag}0"}, start_new_session=True),
        subprocess.Popen(SLEEP, env={**os.environ, "OTHER": f"{FAMILY}={tag}"}, start_new_session=True),
    ]
    try:
        with start(tag, "import time; time.sleep(120)") as role:
            time.sleep(0.3)  # all have become what they are to be
            assert end_families([tag]) == [role.pid]
        assert [other.poll() for other in others] == [None] * len(others)
    finally:
        for other in others:
            other.kill()
            other.wait()


PARENT = """
import os, subprocess, sys, time
from oatmill.children.family import FAMILY, Guardian, new_tag
guardian, tag = Guardian(), sys.argv[1]
role = subprocess.Popen([sys.executable, '-S', '-c', sys.argv[2]], env={**os.environ, FAMILY: tag}, start_new_session=True)
guardian.watch(tag, role.pid)
print(role.pid, guardian.pid, flush=True)
time.sleep(120)
"""


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM])
def test_a_guardian_ends_remaining_processes_when_its_parent_is_killed(tag: str, ended_by: int) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tag, FORKS_TWICE], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        role, guardian = map(int, parent.stdout.readline().split())
        until(lambda: any(session_of(pid) not in {role, None} for pid in members([tag])))
        parent.send_signal(ended_by)
        until(lambda: not members([tag]))
        until(lambda: gone(guardian))


def test_a_guardian_lets_a_role_end_before_it_kills_remaining_processes(tag: str, tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = f"{FORKS_TWICE}\ntime.sleep(1); open({str(done)!r}, 'w').close()"
    with subprocess.Popen([sys.executable, "-c", PARENT, tag, code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        until(lambda: bool(members([tag])))  # a program that is just being started has no environment yet
        parent.kill()
        until(lambda: not members([tag]))
        assert done.exists()


def test_a_closed_guardian_ends_without_killing_anything(tag: str) -> None:
    guardian = Guardian()
    with start(tag, "import time; time.sleep(120)") as role:
        guardian.watch(tag, role.pid)
        guardian.close()
        ended = role.poll()
        role.kill()
    assert ended is None
    assert gone(guardian.pid)


def test_a_killed_guardian_causes_no_error() -> None:
    guardian = Guardian()
    os.kill(guardian.pid, signal.SIGKILL)
    until(lambda: gone(guardian.pid))
    guardian.watch(new_tag(), 1)
    guardian.close()
