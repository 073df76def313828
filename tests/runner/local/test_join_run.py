"""`oatmill join` with a real replay server, and small actors in place of the real ones. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from oatmill.process.exit_codes import BAD_INPUT, FAILED, USER_CODE_FAILED
from tests.replay.serving import PATIENCE_S, ROOT, Server, serving

JOIN = """
import sys
from deploy.cli.entry import run_command
from runner.local import actor_pool, child, joined_machine

def small_actor(config, *, address, number, log_level, keys):
    return [sys.executable, "-m", "tests.replay.leaving_actor", address, str(number), sys.argv[1]]

joined_machine.actor_command = small_actor
child.BACK_OFF_S = 0.01
actor_pool.LEAVE_WITHIN_S = joined_machine.LEAVE_WITHIN_S = 300.0  # the machine may be busy
sys.exit(run_command(["join", *sys.argv[2:]]))
"""


class Machine:
    """A running `oatmill join` with two actors."""

    def __init__(self, folder: Path, address: str, code: int) -> None:
        words = [sys.executable, "-c", JOIN, str(code), address, "--actors", "2", "--log-dir", str(folder / "logs")]
        self.process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def actor(self, number: int) -> psutil.Process:
        """The process of an actor."""
        return next(child for child in psutil.Process(self.process.pid).children() if child.cmdline()[-2] == str(number))

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end; the exit code and what it has said."""
        said = self.process.communicate(timeout=PATIENCE_S)[1]
        return self.process.returncode, said.splitlines()


@contextmanager
def machine(folder: Path, address: str, *, code: int = 0) -> Iterator[Machine]:
    """A machine that joins; its actors end at once with a code other than 0."""
    made = Machine(folder, address, code)
    children: list[psutil.Process] = []
    try:
        yield made
        if made.process.poll() is None:
            children = psutil.Process(made.process.pid).children()
    finally:
        made.process.kill()
        made.process.communicate()
    assert psutil.wait_procs(children, PATIENCE_S)[1] == [], "its actors end with it"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server whose run has two actors of its own."""
    (tmp_path / "run").mkdir()
    with serving(tmp_path / "run", "tcp") as server:
        yield server


def until(server: Server, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until the hub's status is as expected; the status."""
    deadline = time.monotonic() + PATIENCE_S
    while not done(status := server.ask("status")):
        assert time.monotonic() < deadline, status
        time.sleep(0.2)
    return status


def live(status: dict[str, Any]) -> dict[int, int]:
    """The incarnation of each actor that is there and has offered its block."""
    return {
        actor["actor_id"]: actor["incarnation"] for actor in status["actors"] if actor["alive"] and actor.get("produced") == 2
    }


def test_actors_are_kept_alive_follow_scale_and_leave_in_order(tmp_path: Path, server: Server) -> None:
    with machine(tmp_path, server.control) as joined:
        status = until(server, lambda status: live(status) == {2: 1, 3: 1})
        assert (status["desired_actors"], status["own_actors"]) == (4, 2)
        joined.actor(2).kill()
        until(server, lambda status: live(status) == {2: 2, 3: 1})
        server.ask("scale", actors=1)
        until(server, lambda status: live(status) == {2: 2})
        server.ask("scale", actors=2)
        status = until(server, lambda status: live(status) == {2: 2, 3: 2})
        assert [(machine["share"], machine["first"]) for machine in status["machines"]] == [(2, 2)]
        joined.process.send_signal(signal.SIGTERM)
        code, said = joined.end()
        assert (code, said[-1]) == (0, "leaving the run")
        assert "actor 2 was killed by SIGKILL; restarting in 0 s" in said
    status = server.ask("status")
    assert ([actor["left"] for actor in status["actors"]], status["machines"]) == ([True, True], [])


def test_it_ends_with_the_run_and_a_killed_one_leaves_its_place_to_the_next(tmp_path: Path, server: Server) -> None:
    with machine(tmp_path, server.control) as joined:
        until(server, lambda status: live(status) == {2: 1, 3: 1})
        os.kill(joined.process.pid, signal.SIGKILL)
    until(server, lambda status: status["machines"] == [] and all(actor["left"] for actor in status["actors"]))
    with machine(tmp_path, server.control) as joined:
        until(server, lambda status: live(status) == {2: 2, 3: 2})
        server.ask("stop")
        code, said = joined.end()
        assert (code, said[0]) == (0, f"connecting to {server.control} (for up to 60 s)")
        assert said[1:] == ["2 of 2 actors run here, of the numbers 2 to 3", "the run has ended; the actors stop"]


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [
        (BAD_INPUT, BAD_INPUT, "oatmill: error: the pole broke"),
        (
            USER_CODE_FAILED,
            FAILED,
            "; so did the 2 processes before it, and none had collected 1,000 steps; its log is ",
        ),
        (FAILED, FAILED, "it was restarted 5 times in a row without a complete unroll in between; its log is "),
    ],
)
def test_an_actor_that_cannot_work_ends_it_with_one_line(
    tmp_path: Path, server: Server, code: int, expected: int, words: str
) -> None:
    with machine(tmp_path, server.control, code=code) as joined:
        ended, said = joined.end()
    assert ended == expected, said
    assert words in said[-1]
    assert server.ask("status")["machines"] == [], "it has left"
