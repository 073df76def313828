"""The supervisor's clock, its last word with the hub, and a run folder that goes away. No processes."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from oatmill.errors import RunError
from oatmill.process.signals import Interrupts
from recipes import cartpole
from runner.folder import RunFolder
from runner.local import supervisor
from runner.local.child import Child
from runner.local.job import Account, Job
from runner.local.launcher import LocalLauncher
from runner.local.listening import Listening
from runner.local.reporter import FolderReporter
from runner.local.services.replay import READY_WITHIN_S, SILENT_S
from runner.local.supervisor import Supervisor, supervise
from runner.observer import PlainObserver

NEWEST = {"ledger": {"produced": 99}, "actors": [], "learner": {}, "stop": False, "own_actors": 1, "machines": [], "live": 0}


class Process:
    """A child that runs until it is killed."""

    role, number, pid, log = "learner", 0, 1, Path("log")

    def __init__(self) -> None:
        self.exit_code: int | None = None

    def look(self) -> None:
        """Nothing to see."""

    def terminate(self) -> None:
        self.exit_code = -15

    def kill(self) -> None:
        self.exit_code = -9

    kill_known = kill
    has_family = False

    def wait(self, _deadline: float) -> bool:
        return True


class Hub:
    """Answers with what it was given."""

    def __init__(self) -> None:
        self.answers: list[Mapping[str, Any] | None] = []
        self.asked = 0

    def status(self, *, unless: Callable[[], bool] = lambda: False) -> Mapping[str, Any] | None:
        del unless
        self.asked += 1
        return self.answers.pop(0) if self.answers else None

    def stop(self) -> bool:
        return True


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    folder = RunFolder.new(tmp_path / "run", "cartpole")
    folder.config.touch()
    yield Job(
        settings=cartpole.settings(),
        folder=folder,
        addresses=Listening("ipc:///nowhere", "ipc:///nowhere/control"),
        observer=PlainObserver(io.StringIO()),
    )
    folder.release()


@contextmanager
def nothing_installed() -> Iterator[Interrupts]:
    yield Interrupts()


def make(job: Job, hub: Hub) -> Supervisor[Child]:
    made = Supervisor(
        LocalLauncher(job),
        FolderReporter(job.folder, job.observer),
        cast("Any", hub),
        settings=job.settings,
        account=Account(),
        interrupts=Interrupts(),
    )
    made.services = {"replay": cast("Child", Process()), "learner": cast("Child", Process())}
    made.replay.answered(made.clock.now())
    return made


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass."""
    real, passed = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed[0])

    def sleep(seconds: float) -> None:
        passed[0] += seconds

    return sleep


def test_a_supervisor_that_was_asleep_does_not_give_the_hub_up_and_one_that_is_awake_does(
    job: Job, moment: Callable[[float], None]
) -> None:
    made = make(job, Hub())
    (job.folder.path / "endpoints").mkdir()
    (job.folder.path / "endpoints" / "replay.json").write_text("{}")
    made._ask_hub()  # it is ready
    moment(24 * 3600.0)
    made._ask_hub()
    for _ in range(round(SILENT_S) - 6):  # the day counts as one turn of 5 s
        moment(1.0)
        made._ask_hub()
    moment(2.0)
    with pytest.raises(RunError, match="the replay server has not answered for 60 s"):
        made._ask_hub()


def test_a_replay_server_has_minutes_to_become_ready(job: Job, moment: Callable[[float], None]) -> None:
    made = make(job, Hub())
    for _ in range(round(READY_WITHIN_S) - 1):
        moment(1.0)
        made._ask_hub()
    moment(2.0)
    with pytest.raises(RunError, match="the replay server has not become ready within 300 s"):
        made._ask_hub()


def test_a_supervisor_that_was_asleep_does_not_kill_the_learner(job: Job, moment: Callable[[float], None]) -> None:
    made = make(job, Hub())
    learner = cast("Process", made.services["learner"])
    for step in (1, 2):
        made._watch_learner({"learner_step": step})
    moment(24 * 3600.0)
    made._watch_learner({"learner_step": 2})
    assert learner.exit_code is None
    patience = round(job.settings.trainer.hang_timeout + job.settings.trainer.data_timeout) + 1
    for attempt in range(patience):
        moment(1.0)
        made._watch_learner({"learner_step": 2, "save_attempts": attempt})  # it waits for disk space
    assert learner.exit_code is None
    for _ in range(patience):
        moment(1.0)
        made._watch_learner({"learner_step": 2, "save_attempts": patience})
    assert learner.exit_code == -9


def test_time_asleep_is_not_the_learners_time_to_stop(job: Job, moment: Callable[[float], None]) -> None:
    made = make(job, Hub())
    cast("FolderReporter", made.reporter).lines.count = 1  # it has trained
    made.stop._interrupts._stops.hear()
    learner = made.services["learner"]
    made.stop.take_interrupts(learner)
    moment(24 * 3600.0)
    made.stop.take_interrupts(learner)
    assert learner.exit_code is None


@pytest.mark.parametrize("late", [0, 1])
def test_a_run_that_fails_ends_with_the_newest_ledger(job: Job, monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    hub, account = Hub(), Account(status={"ledger": {"produced": 1}})
    hub.answers = [None] * late + [NEWEST]  # a hub that has just woken may miss the first question

    @contextmanager
    def line(*_: object) -> Iterator[Hub]:
        yield hub

    def start(made: Supervisor[Child]) -> None:
        made.services = {"replay": cast("Child", Process()), "learner": cast("Child", Process())}

    def fail(_made: Supervisor[Child], _watchdog: object) -> None:
        raise RunError("the learner died")

    monkeypatch.setattr(supervisor, "operator_client", line)
    monkeypatch.setattr(Supervisor, "start", start)
    monkeypatch.setattr(Supervisor, "watch", fail)
    with pytest.raises(RunError, match="the learner died"):
        supervise(job, account, Interrupts())
    assert account.status == NEWEST


def test_the_books_are_closed_with_a_hub_that_misses_a_question(job: Job) -> None:
    hub = Hub()
    made = make(job, hub)
    hub.answers = [None, {**NEWEST, "live": 1}, NEWEST]
    made.close_books()
    assert made.account.status == NEWEST


def test_a_run_whose_folder_is_deleted_or_moved_ends_with_one_line_and_does_not_make_it_anew(job: Job) -> None:
    made = make(job, Hub())
    made.check()
    (job.folder.path / ".lock").unlink()
    made.check()  # the lock alone is no reason to end
    shutil.rmtree(job.folder.path)
    expected = f"^the run folder {job.folder.path} was deleted or moved during the run; the run ends$"
    with pytest.raises(RunError, match=expected):
        made.check()
    made.end()
    assert not job.folder.path.exists()
    job.folder.path.mkdir()  # something else under its name
    with pytest.raises(RunError, match=expected):
        made.check()


def test_a_write_that_misses_the_folder_is_told_as_its_deletion(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def line(*_: object) -> Iterator[Hub]:
        yield Hub()

    def start(_made: Supervisor[Child]) -> None:
        shutil.rmtree(job.folder.path)
        job.folder.event("actor_joined")

    monkeypatch.setattr(supervisor, "operator_client", line)
    monkeypatch.setattr(Supervisor, "start", start)
    with pytest.raises(RunError, match="was deleted or moved during the run; the run ends"):
        supervise(job, Account(), Interrupts())
