"""Actors that a fork server starts behave as processes of their own. Real processes; the actors in them do little."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from oatmill.children.family import FAMILY, Guardian
from oatmill.process.exit_codes import BAD_INPUT
from runner.local import forking
from runner.local.child import Child, start_process
from runner.local.forking import PROGRAM, Forking

WITHIN_S = 120.0
SERVER = """
import os, random, signal, sys, time, types
import numpy as np
import actors.__main__, actors.fork_server
from oatmill.children.leaving import leave

sys.modules["actors.actor"] = types.ModuleType("actors.actor")  # without torch

def actor(arguments):
    print(np.random.random(), random.random())
    if "waits" in arguments:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        print("waiting", flush=True)
        time.sleep(600)
    return 7

actors.__main__.main = actor
leave(actors.fork_server.main(sys.argv[1:]))
"""


def until(done: Callable[[], object]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + WITHIN_S
    while not done():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


class Actors:
    """Starts actors with the words that say what they do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.guardian = Guardian()
        self.forking = Forking(folder / "server.log", self.guardian)
        self.children: list[Child] = []

    def start(self, number: int, *words: str) -> Child:
        command = [*PROGRAM, *words, "--actor-id", str(number)]
        until(lambda: self.forking.way(command) is not None)
        way = self.forking.way(command)
        assert way is not None, "it was ready a moment ago"
        self.children.append(Child("actor", number, command, log=self.folder / f"{number}.log", threads=1, start=way))
        return self.children[-1]

    @property
    def server(self) -> psutil.Process:
        return psutil.Process(psutil.Process(self.children[-1].pid).ppid())

    def close(self) -> None:
        for child in self.children:
            child.kill()
        self.forking.close()
        self.guardian.close()


@pytest.fixture
def actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Actors]:
    """Actors of a server that knows two of them: one that waits and one that ends with 7."""
    monkeypatch.setattr(forking, "SERVER", (sys.executable, "-c", SERVER))
    with closing(Actors(tmp_path)) as made:
        yield made


def ended(child: Child) -> int | None:
    until(lambda: child.exit_code is not None)
    return child.exit_code


def test_a_forked_actor_looks_like_a_process_of_its_own(actors: Actors) -> None:
    odd = "a folder/\u00fc\udcff"  # as Python has a path that is not UTF-8
    child = actors.start(0, "waits", odd)
    until(lambda: "waiting" in child.last_lines(1))
    process = psutil.Process(child.pid)
    words = process.cmdline()
    shown = [words[0].lstrip("/"), *words[1:]]
    assert shown == [sys.executable.lstrip("/"), "-m", "actors", "waits", odd, "--actor-id", "0"]
    assert Path(words[0]).samefile(sys.executable)
    assert process.environ()[FAMILY] == child.tag
    assert os.getsid(child.pid) == child.pid
    assert actors.server.pid not in {os.getpid(), child.pid}
    links = {str(path.readlink()) for path in Path(f"/proc/{child.pid}/fd").iterdir()}
    assert not [link for link in links if link.startswith(("socket:", "anon_inode:[pidfd]"))]
    child.terminate()
    assert ended(child) == 0


def test_actors_of_one_server_have_draws_and_ends_of_their_own(actors: Actors) -> None:
    first, second, third = actors.start(0, "ends"), actors.start(1, "ends"), actors.start(2, "waits")
    assert (ended(first), ended(second), third.exit_code) == (7, 7, None)
    assert first.ending == "ended with exit code 7"
    draws = [*first.last_lines(1)[0].split(), *second.last_lines(1)[0].split()]
    assert len(set(draws)) == len(draws) == 4
    third.kill()
    assert third.exit_code == -signal.SIGKILL
    assert third.ending == "was killed by SIGKILL"


def test_actors_end_with_their_server_and_the_next_one_has_another_server(actors: Actors) -> None:
    child = actors.start(0, "waits")
    until(lambda: "waiting" in child.last_lines(1))
    server = actors.server
    server.kill()
    until(lambda: not psutil.pid_exists(child.pid))
    assert child.ending == "was killed by SIGTERM"
    assert ended(actors.start(0, "ends")) == 7
    assert actors.start(1, "waits").exit_code is None
    assert actors.server != server


def test_a_server_that_is_stopped_delays_an_end_and_does_not_prevent_a_start(
    actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forking, "FORKED_WITHIN_S", 0.2)
    child = actors.start(0, "waits")
    server = actors.server
    server.suspend()
    try:
        own = actors.start(1, "--wrong")
        assert psutil.Process(own.pid).ppid() == os.getpid()
        assert ended(own) == BAD_INPUT  # a real one, which does not know this option
        os.kill(child.pid, signal.SIGKILL)
        assert ended(child) == -signal.SIGTERM
    finally:
        server.resume()
    assert ended(actors.start(2, "ends")) == 7
    until(lambda: [one for one in server.children() if one.status() != psutil.STATUS_ZOMBIE] == [])


def test_where_no_server_can_run_actors_are_processes_of_their_own(actors: Actors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "SERVER", (sys.executable, "-c", "raise SystemExit('no torch here')"))
    child = actors.start(0, "--wrong")
    assert psutil.Process(child.pid).ppid() == os.getpid()
    assert ended(child) == BAD_INPUT
    assert (actors.folder / "server.log").read_text() == "no torch here\n"


@pytest.mark.parametrize("lacks", ["os.pidfd_open = None", "actors.fork_server._bounds = lambda area: (0, 0)"])
def test_a_system_without_what_forked_actors_need_has_processes_of_their_own(
    actors: Actors, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    server = SERVER.replace("actors.__main__.main = actor", f"actors.__main__.main = actor; {lacks}")
    monkeypatch.setattr(forking, "SERVER", (sys.executable, "-c", server))
    child = actors.start(0, "--wrong")
    assert psutil.Process(child.pid).ppid() == os.getpid()
    assert ended(child) == BAD_INPUT


def test_many_actors_fit_where_the_limit_of_open_files_is_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "SERVER", (sys.executable, "-c", SERVER))
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 30, hard))
    try:
        with closing(Actors(tmp_path)) as made:
            children = [made.start(number, "waits") for number in range(20)]
            server = made.server
            assert {psutil.Process(child.pid).ppid() for child in children} == {server.pid}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def test_another_program_is_not_forked(actors: Actors) -> None:
    assert actors.forking.way([sys.executable, "-c", "pass"]) is start_process


def test_a_server_ends_with_its_owner(actors: Actors) -> None:
    child = actors.start(0, "waits")
    until(lambda: "waiting" in child.last_lines(1))
    server = actors.server
    actors.forking.close()
    until(lambda: not server.is_running() and not psutil.pid_exists(child.pid))
