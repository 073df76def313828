"""The pool keeps as many actors at work as are wanted, and gives up where starting again leads nowhere. Real processes."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from actors.settings import ActorSettings
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.exit_codes import BAD_INPUT, FAILED, HUNG, USER_CODE_FAILED
from runner.local import actor_pool as pool_module
from runner.local.actor_pool import ActorGivenUpError, ActorPool, numbers_outside
from runner.local.child import Child, end_all, end_families_of
from runner.local.launcher import Launcher

WORKS = "import time; time.sleep(60)"
FAILS = "import sys; sys.stderr.write('oatmill: error: the pole broke\\n'); sys.exit(1)"
REFUSES = "import sys; sys.stderr.write('oatmill: error: env.id=Nothing could not be built\\n'); sys.exit(2)"
LEAVES = "pass"
SILENT = {"actor_id": 0, "incarnation": 1, "unrolls": 2, "alive": False, "left": False}


class World:
    """A pool whose actors run `code`."""

    def __init__(self, tmp_path: Path, code: str, max_restarts: int = 2, hang_timeout: float = 300.0) -> None:
        self.tmp_path = tmp_path
        self.code = code
        self.started: list[int] = []
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.texts: list[str] = []
        self.pool = ActorPool(
            cast("Launcher[Child]", self),
            settings=ActorSettings(max_restarts=max_restarts, hang_timeout=hang_timeout, unroll_length=20),
            notice=self.notice,
            clock=AwakeClock(0.15),
        )

    reap = staticmethod(end_families_of)
    end_all = staticmethod(end_all)

    def start_actor(self, number: int) -> Child:
        self.started.append(number)
        return Child("actor", number, [sys.executable, "-c", self.code], log=self.tmp_path / f"{number}.log", threads=1)

    def notice(self, event: str, text: str, values: Mapping[str, Any]) -> None:
        self.events.append((event, values))
        self.texts.append(text)

    def waits(self) -> list[str]:
        return [text.rpartition("restarting in ")[2] for text in self.texts if "restarting" in text]

    def until(self, done: Callable[[], bool], within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not done():
            assert time.monotonic() < deadline, f"nothing like this within {within_s:g} s"
            self.pool.turn()
            time.sleep(0.01)

    def numbers(self) -> list[int]:
        return sorted(child.number for child in self.pool.children)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.local.child.BACK_OFF_S", 0.01)
    monkeypatch.setattr(pool_module, "LEFT_BACK_OFF_S", 0.05)


def test_it_follows_the_number_that_is_wanted_and_the_highest_leave_first(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS)
    world.pool.follow(3)
    world.until(lambda: world.numbers() == [0, 1, 2])
    world.pool.follow(1)
    world.until(lambda: world.numbers() == [0])
    assert sorted(values["actor"] for event, values in world.events if event == "actor_left") == [1, 2]
    world.pool.follow(2)
    world.until(lambda: world.numbers() == [0, 1])
    world.pool.end(grace_s=5)
    assert world.pool.restarts == 0


def test_more_actors_get_the_numbers_that_are_given_and_those_at_work_keep_theirs(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS)
    machines = [{"first": 1, "actors": 2}, {"first": 4, "actors": 1}]
    world.pool.follow(3, numbers_outside(machines))
    world.until(lambda: world.numbers() == [0, 3, 5])
    world.pool.follow(3, numbers_outside([]))
    assert world.numbers() == [0, 3, 5], "no actor is replaced because lower numbers are free"
    world.pool.follow(4, numbers_outside([]))
    world.until(lambda: world.numbers() == [0, 1, 3, 5])
    world.pool.follow(2, numbers_outside([]))
    world.until(lambda: world.numbers() == [0, 1])
    world.pool.end(grace_s=5)


def test_an_actor_that_dies_after_some_work_is_started_again_without_end(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS, max_restarts=1)
    world.pool.follow(1)
    for incarnation in range(1, 5):  # four deaths, three more than may come in a row without work
        world.until(lambda: len(world.pool.children) == 1)
        world.pool.heard([{"actor_id": 0, "incarnation": incarnation, "unrolls": 2}])
        world.pool.children[0].kill()
        world.pool.turn()
        assert not world.pool.children
    assert world.pool.restarts == 4
    restarts = [values["restarts"] for event, values in world.events if event == "actor_restarted"]
    assert restarts == [1, 2, 3, 4]
    assert world.waits() == ["0 s"] * 4
    world.pool.end(grace_s=5)


def test_an_actor_that_never_does_a_step_is_given_up_after_the_allowed_restarts(tmp_path: Path) -> None:
    world = World(tmp_path, FAILS, max_restarts=4)
    world.pool.follow(1)
    # The hub shows the steps of a former incarnation: they are not this process's.
    world.pool.heard([{"actor_id": 0, "incarnation": 1, "unrolls": 2}])
    message = (
        r"^actor 0 ended with exit code 1: the pole broke; it was restarted 4 times in a row without a complete unroll "
        r"in between$"
    )
    with pytest.raises(ActorGivenUpError, match=message):
        world.until(lambda: False)
    assert world.started == [0] * 5  # the first start and four more
    assert world.waits() == ["0 s", "0.01 s", "0.02 s", "0.04 s"]


def failing(text: str, code: int = USER_CODE_FAILED) -> str:
    """Code of an actor that ends with an error; `text` is an expression of its message."""
    return f"import os, sys; sys.stderr.write('oatmill: error: ' + {text} + chr(10)); sys.exit({code})"


@pytest.mark.parametrize("code", [USER_CODE_FAILED, BAD_INPUT])
def test_an_environment_that_fails_the_same_way_three_times_in_a_row_ends_the_run_at_once(tmp_path: Path, code: int) -> None:
    # Any words will do: the exit code says that the environment failed.
    world = World(tmp_path, failing("'the wall is gone'", code), max_restarts=9)
    world.pool.follow(1)
    world.pool.heard([{"actor_id": 0, "incarnation": 1, "unrolls": 2}])  # an earlier process: the run has started
    with pytest.raises(
        ActorGivenUpError,
        match=r"^actor 0 .* the wall is gone; so did the 2 processes before it, and none had collected 1,000 steps$",
    ):
        world.until(lambda: False)
    assert world.started == [0, 0, 0]
    assert world.waits() == ["0 s", "0.01 s"]


def test_only_the_exit_code_tells_that_the_environment_failed(tmp_path: Path) -> None:
    # The words of an environment's error, from an actor that failed for another reason.
    text = "\"env.factory=maze:make raised in step: KeyError: 'wall' (maze.py:12, in step)\""
    world = World(tmp_path, failing(text, FAILED), max_restarts=4)
    world.pool.follow(1)
    with pytest.raises(ActorGivenUpError, match="it was restarted 4 times in a row"):
        world.until(lambda: False)


def test_an_environment_that_fails_in_other_ways_is_tried_more_often(tmp_path: Path) -> None:
    world = World(tmp_path, failing("str(os.getpid())"), max_restarts=4)
    world.pool.follow(1)
    with pytest.raises(ActorGivenUpError, match="it was restarted 4 times in a row"):
        world.until(lambda: False)


def run_and_fail(world: World, incarnation: int, unrolls: int, *, late: bool) -> None:
    """An actor that collects unrolls before it fails; the hub's status arrives before its end, or after it."""
    world.until(lambda: len(world.started) == incarnation)
    status = [{"actor_id": 0, "incarnation": incarnation, "unrolls": unrolls}]
    if not late:
        world.pool.heard(status)
    world.until(lambda: world.pool.restarts == incarnation)
    world.pool.heard(status)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_how_far_an_environment_comes_before_it_fails_decides_whenever_the_hub_tells_it(tmp_path: Path, late: bool) -> None:
    rare = World(tmp_path, failing("'the wall is gone'"), max_restarts=1)
    rare.pool.follow(1)
    for incarnation in range(1, 6):  # 50 unrolls of 20 steps
        run_and_fail(rare, incarnation, 50, late=late)
    often = World(tmp_path, failing("'the wall is gone'"), max_restarts=1)
    often.pool.follow(1)
    run_and_fail(often, 1, 50, late=late)  # this one does not count
    for incarnation in (2, 3):
        run_and_fail(often, incarnation, 49, late=late)
    with pytest.raises(ActorGivenUpError, match="so did the 2 processes before it, and none had collected 1,000 steps"):
        run_and_fail(often, 4, 49, late=late)
    failed = {"actor": 0, "how": "ended with exit code 72", "restarts": 3, "error": "the wall is gone"}
    assert often.events[-1][0] == "actor_failed"
    assert {name: value for name, value in often.events[-1][1].items() if name != "pid"} == failed


def test_an_environment_that_cannot_be_built_is_not_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path, REFUSES)
    world.pool.follow(1)
    with pytest.raises(ActorGivenUpError, match=r"^env.id=Nothing could not be built$"):
        world.until(lambda: False)
    assert world.started == [0]


def test_an_actor_that_leaves_in_order_comes_back_but_not_once_the_run_ends(tmp_path: Path) -> None:
    world = World(tmp_path, LEAVES, max_restarts=1)
    world.pool.follow(1)
    world.until(lambda: len(world.started) == 2)
    world.until(lambda: not world.pool.children)
    world.pool.ending = True
    time.sleep(0.1)
    world.pool.turn()
    assert len(world.started) == 2


def test_an_actor_that_ends_with_0_again_and_again_though_nobody_asks_it_to_is_given_up(tmp_path: Path) -> None:
    # os._exit(0) in an environment's step looks like this.
    world = World(tmp_path, LEAVES, max_restarts=2)
    world.pool.follow(1)
    message = (
        r"^actor 0 ended with exit code 0 without being asked to stop; it was restarted 2 times in a row without a complete "
        r"unroll in between$"
    )
    with pytest.raises(ActorGivenUpError, match=message):
        world.until(lambda: False)
    assert world.started == [0, 0, 0]
    assert world.pool.restarts == 2


def test_a_deaf_actor_that_is_to_leave_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "LEAVE_WITHIN_S", 0.1)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    world = World(tmp_path, deaf)
    world.pool.follow(1)
    world.until(lambda: bool(world.pool.children) and "deaf" in (tmp_path / "0.log").read_text())
    child = world.pool.children[0]
    world.pool.follow(0)
    world.until(lambda: not world.pool.children)
    assert child.exit_code == -signal.SIGKILL


def test_an_actor_that_the_hub_no_longer_hears_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "HUNG_SLACK_S", 0.1)
    world = World(tmp_path, WORKS, hang_timeout=0.2)
    world.pool.follow(1)
    world.pool.turn()
    hung = world.pool.children[0]
    world.pool.heard([SILENT | {"alive": True}])
    time.sleep(0.4)
    world.pool.turn()
    assert world.pool.children == [hung]  # it was heard
    world.pool.heard([SILENT])
    world.until(lambda: world.started == [0, 0])
    assert hung.exit_code == -signal.SIGKILL
    (event,) = [values for name, values in world.events if name == "actor_hung"]
    assert (event["actor"], event["pid"]) == (0, hung.pid)
    (line,) = [text for text in world.texts if text]
    assert re.fullmatch(r"actor 0 was silent for 0 s \(actors\.hang_timeout=0\.2\) and was killed; restarting in 0 s", line)
    assert world.pool.restarts_of(0) == 1
    world.pool.heard([SILENT])  # the hub still shows the dead one: it is not held against the new one
    time.sleep(0.2)
    world.pool.turn()
    assert len(world.started) == 2
    world.pool.end(grace_s=5)


def test_a_reset_may_take_as_long_as_the_hang_timeout_allows(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS, hang_timeout=600.0)
    now = 0.0
    world.pool._now = lambda: now
    world.pool.follow(1)
    world.pool.turn()
    (slow,) = world.pool.children
    world.pool.heard([SILENT])
    for now in (0.0, 65.0, 300.0, 600.0):  # noqa: B007  (the clock of the pool)
        world.pool.turn()
        assert slow.exit_code is None
    now = 611.0
    world.pool.turn()
    assert slow.exit_code == -signal.SIGKILL
    world.pool.end(grace_s=5)


def test_a_supervisor_that_was_asleep_kills_no_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "HUNG_SLACK_S", 0.1)
    world = World(tmp_path, WORKS, hang_timeout=0.3)
    world.pool.follow(1)
    world.pool.turn()
    (actor,) = world.pool.children
    world.pool.heard([SILENT])  # all sleep from here on: the hub misses the actor, and nobody looks
    time.sleep(1.0)
    world.pool.turn()
    assert actor.exit_code is None
    world.pool.end(grace_s=5)


def test_an_actor_whose_watchdog_ended_it_is_told_as_hung(tmp_path: Path) -> None:
    world = World(tmp_path, f"import os; os._exit({HUNG})")
    world.pool.follow(1)
    world.until(lambda: bool(world.waits()))
    told = next(text for text in world.texts if text)
    assert told.startswith("actor 0 made no progress for longer than actors.hang_timeout and ended itself")
    world.pool.end(grace_s=5)


def test_what_a_dead_actor_has_started_is_gone_before_the_next_one_is_started(tmp_path: Path) -> None:
    # A game with a session of its own, which keeps its port or its lock file for as long as it is there.
    code = (
        "import subprocess, sys\n"
        "game = [sys.executable, '-S', '-c', 'import time; time.sleep(60)']\n"
        "print(subprocess.Popen(game, start_new_session=True).pid, flush=True); sys.exit(1)"
    )
    world = World(tmp_path, code)
    world.pool.follow(1)
    world.until(lambda: world.pool.restarts == 1)
    game = int((tmp_path / "0.log").read_text().split()[0])
    assert not psutil.pid_exists(game) or psutil.Process(game).status() == psutil.STATUS_ZOMBIE
    world.pool.end(grace_s=1)


def test_actors_that_began_alike_are_told_of_once(tmp_path: Path) -> None:
    world = World(tmp_path, WORKS)
    entries = [{"actor_id": number, "incarnation": 1, "began_like": 1 - number} for number in (1, 0)]
    world.pool.follow(2)
    for _ in range(2):
        world.pool.heard(entries)
    told = [(event, values) for event, values in world.events if event == "equal_streams"]
    assert told == [("equal_streams", {"actors": [0, 1]})]
    (text,) = [text for text in world.texts if "began with the same" in text]
    assert text.startswith("actors 0 and 1 began with the same observations in all their copies, although their seeds differ")
    world.pool.end(grace_s=5)
