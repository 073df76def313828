"""Processes that an environment has started end with the run, and its output does not fill the disk. Real runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from oatmill.children.family import FAMILY
from runner.local.bounded_log import LONGEST_BYTES
from tests.system.real_runs import ENDLESS, all_gone, command, environment, training

ENVIRONMENT = '''
import os, sys

import gymnasium


def make():
    """A CartPole that starts a game server as daemons are started, and never ends it."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(600)", "game", "FOLDER"])
        os._exit(0)
    os.wait()
    return Talkative(gymnasium.make("CartPole-v1"))


class Talkative(gymnasium.Wrapper):
    """Prints at every step."""

    def step(self, action):
        print("x" * 9999)
        return super().step(action)
'''
OWN = ["env.kind=factory", "env.factory=daemons:make", "actors.envs_per_actor=1"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with an environment that starts daemons. The daemons are always ended after the test."""
    (tmp_path / "daemons.py").write_text(ENVIRONMENT.replace("FOLDER", str(tmp_path)))
    yield tmp_path
    for game in games(tmp_path):
        game.kill()


def games(place: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if is_game(process, place)]


def is_game(process: psutil.Process, place: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()[-2:] == ["game", str(place)] and process.status() != psutil.STATUS_ZOMBIE
    return False


def actors_games(place: Path) -> set[int]:
    """The daemons of the actors, without that of the process that described the environment."""
    found = set()
    for process in games(place):
        with contextlib.suppress(psutil.Error):
            if FAMILY in process.environ():
                found.add(process.pid)
    return found


def until(done: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, "the condition was not reached in time"
        time.sleep(0.05)


@pytest.mark.slow  # test_family, test_child, test_actor_pool and test_bounded_log test the parts of it
def test_an_environments_daemons_end_with_their_actor_and_with_the_run_and_its_log_is_bounded(place: Path) -> None:
    with training(place, *ENDLESS, *OWN) as train:
        train.until(lambda: train.learner_steps() >= 1)
        before = actors_games(place)
        assert before
        os.kill(train.pids("actor")[0], signal.SIGKILL)
        train.until(lambda: bool(actors_games(place)) and not actors_games(place) & before)
        log = train.run_dir / "logs" / "actor-0.log"
        train.until(lambda: "left out" in log.read_text(errors="replace"))
        assert log.stat().st_size < 2 * LONGEST_BYTES
        train.process.send_signal(signal.SIGINT)
        assert train.end() == 0
        assert not actors_games(place)
        assert all_gone(train.run_dir)


@pytest.mark.slow
def test_an_environments_daemons_end_when_the_supervisor_is_killed(place: Path) -> None:
    with training(place, *ENDLESS, *OWN) as train:
        train.until(lambda: bool(train.pids("actor")) and bool(actors_games(place)))
        train.process.kill()
        until(lambda: not actors_games(place))
        assert all_gone(train.run_dir)


@pytest.mark.slow
def test_the_daemons_of_an_actor_that_was_started_by_hand_end_with_it(place: Path) -> None:
    # No server answers at the address. The actor builds its environment first, and then waits.
    actor = subprocess.Popen(
        command("actor", "cartpole", *OWN, "--address", f"ipc://{place}/control"), cwd=place, env=environment()
    )
    try:
        until(lambda: bool(actors_games(place)))
    finally:
        actor.kill()
        actor.wait()
    until(lambda: not actors_games(place))
