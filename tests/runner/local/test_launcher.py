"""A supervisor with a launcher of another engine: its processes are restarted by the same rules as local ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from oatmill.errors import RunError
from oatmill.process.signals import Interrupts
from recipes import cartpole
from runner.local import supervisor
from runner.local.job import Account
from runner.local.reporter import LineReporter
from runner.local.supervisor import Supervisor


@dataclass(eq=False)
class Remote:
    """A process of another engine that ends when a test says so."""

    name: str
    number: int = 0
    pid: int = 1
    log: Path = Path("log")
    exit_code: int | None = None
    ending: str = "was lost with its node"
    error: str | None = None
    failure: str = "the node of replay is lost"

    def last_lines(self, _count: int) -> list[str]:
        return ["its last line"]

    def terminate(self) -> None:
        self.exit_code = 0

    def kill(self) -> None:
        self.exit_code = -9 if self.exit_code is None else self.exit_code


class Engine:
    """Starts such processes."""

    def __init__(self) -> None:
        self.started: list[Remote] = []
        self.resumed: list[bool] = []
        self.checkpoint = False

    def _start(self, name: str, number: int = 0) -> Remote:
        self.started.append(Remote(name, number, pid=len(self.started) + 1))
        return self.started[-1]

    def newest(self, name: str) -> Remote:
        return [one for one in self.started if one.name == name][-1]

    def start_replay(self) -> Remote:
        return self._start("replay")

    def start_learner(self, resume: bool) -> Remote:
        self.resumed.append(resume)
        return self._start("learner")

    def start_actor(self, number: int) -> Remote:
        return self._start(f"actor {number}", number)

    def replay_listens(self) -> bool:
        return True

    def has_checkpoint(self) -> bool:
        return self.checkpoint

    def problem(self) -> str | None:
        return None

    def record(self, services: Mapping[Remote, int], actors: Sequence[Remote], restarts_of: Callable[[int], int]) -> None:
        """Nothing to write."""

    def reap(self, processes: Iterable[Remote]) -> None:
        """Nothing is left behind."""

    def end_all(self, processes: Sequence[Remote], *, grace_s: float) -> None:
        del grace_s
        for process in processes:
            process.kill()

    def close(self) -> None:
        """Nothing to release."""


class Hub:
    """Answers, and lets a test do something at each answer."""

    def __init__(self) -> None:
        self.plans: Iterator[Callable[[dict[str, Any]], object]] = iter(())
        self.answer: dict[str, Any] = {"actors": [], "learner": {}, "stop": False, "own_actors": 2, "machines": [], "live": 0}

    def status(self, *, unless: Callable[[], bool] = lambda: False) -> Mapping[str, Any] | None:
        del unless
        next(self.plans, lambda _answer: None)(self.answer)
        return dict(self.answer)

    def stop(self) -> bool:
        return True


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr("runner.local.child.BACK_OFF_S", 0.01)
    monkeypatch.setattr(supervisor, "STATUS_EVERY_S", 0.0)
    monkeypatch.setattr(supervisor, "TURN_S", 0.01)
    monkeypatch.setattr(supervisor, "ACTORS_LEAVE_WITHIN_S", 0.0)
    return Engine()


def supervised(engine: Engine, hub: Hub, said: list[str], **trainer: int) -> Supervisor[Remote]:
    settings = cartpole.settings()
    settings.actors.count = 1
    for name, value in trainer.items():
        setattr(settings.trainer, name, value)
    return Supervisor(
        engine,
        LineReporter(said.append),
        cast("Any", hub),
        settings=settings,
        account=Account(),
        interrupts=Interrupts(),
        resume=True,
    )


def test_a_lost_learner_restarts_from_its_checkpoint_and_the_number_of_actors_follows_the_hub(engine: Engine) -> None:
    hub, said = Hub(), list[str]()

    def lose(_answer: dict[str, Any]) -> None:
        engine.checkpoint = True
        engine.newest("learner").exit_code = 1

    def end(_answer: dict[str, Any]) -> None:
        engine.newest("learner").exit_code = 0

    nothing = [lambda _answer: None] * 20
    hub.plans = iter([lose, *nothing, end])
    supervised(engine, hub, said).run()
    assert engine.resumed == [True, True]
    assert [one.name for one in engine.started if one.name.startswith("actor")] == ["actor 0", "actor 1"]
    assert said == ["the learner was lost with its node; restarting in 0.01 s from its newest checkpoint"]
    assert all(one.exit_code is not None for one in engine.started)


def test_a_learner_that_is_lost_again_and_again_ends_the_run_by_the_local_rules(engine: Engine) -> None:
    hub, said = Hub(), list[str]()
    hub.plans = iter([lambda _answer: setattr(engine.newest("learner"), "exit_code", 1)] * 1000)
    with pytest.raises(RunError, match="the node of replay is lost"):  # what this process says of itself
        supervised(engine, hub, said, max_restarts=2).run()
    assert engine.resumed == [True, False, False]
    assert said[-2:] == ["the last lines of learner:", "  its last line"]


def test_only_a_learner_step_that_is_higher_than_the_one_before_is_progress() -> None:
    reporter = LineReporter(lambda _text: None)
    reports = []
    for step in (None, 3, 3, 5, 2, 2, 3, None, 4):  # a restart goes back from 5 to 2
        reporter.heard({"learner": {"learner_step": step}})
        reports.append(reporter.reports)
    assert reports == [0, 1, 1, 2, 2, 2, 3, 3, 4]
