"""The learner's place in a local run: when it is started again, from where, and when it is given up. Real processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.local.child import Child, end_all
from runner.local.services.learner import LearnerService

SLEEPS = "import time; time.sleep(60)"
BREAKS = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


class Bench:
    """A service whose learners do what the next of `scripts` says; the last one is repeated."""

    def __init__(self, folder: Path, *scripts: str, checkpoint: bool = True, max_restarts: int = 2) -> None:
        self.folder, self.scripts = folder, list(scripts)
        self.resumed: list[bool] = []
        self.children: list[Child] = []
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []
        self.reports = 0
        self.service = LearnerService(
            self.start,
            has_checkpoint=lambda: checkpoint,
            max_restarts=max_restarts,
            notice=lambda event, text, values: self.events.append((event, text, values)),
        )

    def start(self, resume: bool) -> Child:
        self.resumed.append(resume)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        command = [sys.executable, "-c", script]
        self.children.append(Child("learner", 0, command, log=self.folder / "log", threads=1))
        return self.children[-1]

    def until(self, count: int, *, stopping: bool = False) -> bool:
        """Turn until this many learners were started (True) or the service is given up (False)."""
        deadline = time.monotonic() + 60
        while len(self.children) < count:
            assert time.monotonic() < deadline
            if self.service.turn(reports=self.reports, stopping=stopping) is None:
                return False
            time.sleep(0.01)
        return True

    def ended(self) -> bool:
        """Turn until the newest learner has ended: whether the service is given up then."""
        self.children[-1].wait(time.monotonic() + 60)
        return self.service.turn(reports=self.reports, stopping=False) is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.local.child.BACK_OFF_S", 0.01)


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    end_all([child for bench in made for child in bench.children], grace_s=0)


def bench_of(benches: list[Bench], folder: Path, *scripts: str, **how: Any) -> Bench:
    benches.append(Bench(folder, *scripts, **how))
    benches[-1].service.begin(resume=False)
    return benches[-1]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_killed_learner_is_started_again_from_its_checkpoint_if_there_is_one(
    tmp_path: Path, benches: list[Bench], checkpoint: bool
) -> None:
    bench = bench_of(benches, tmp_path, BREAKS, SLEEPS, checkpoint=checkpoint)
    assert bench.until(2)
    assert bench.resumed == [False, checkpoint]
    assert bench.service.child is bench.children[1]
    assert bench.service.restarts == 1
    ((event, text, values),) = bench.events
    assert event == "learner_restarted"
    assert ("newest checkpoint" in text) == checkpoint
    assert (values["how"], values["restarts"]) == ("was killed by SIGKILL", 1)


@pytest.mark.usefixtures("quick")
def test_a_learner_that_gets_nowhere_is_given_up_after_so_many_restarts(tmp_path: Path, benches: list[Bench]) -> None:
    bench = bench_of(benches, tmp_path, BREAKS, max_restarts=2)
    assert not bench.until(9)
    assert len(bench.children) == 3


@pytest.mark.usefixtures("quick")
def test_one_that_gets_further_each_time_is_never_given_up(tmp_path: Path, benches: list[Bench]) -> None:
    bench = bench_of(benches, tmp_path, BREAKS, max_restarts=1)
    for count in range(2, 6):
        bench.reports += 1
        assert bench.until(count)
    assert bench.service.restarts == 4


@pytest.mark.parametrize(
    "script",
    [
        "raise SystemExit(0)",
        "import sys; sys.stderr.write('oatmill: error: no batch arrived'); sys.exit(1)",
        "import sys; sys.exit(2)",
    ],
)
def test_one_that_decided_to_end_is_not_started_again(tmp_path: Path, benches: list[Bench], script: str) -> None:
    bench = bench_of(benches, tmp_path, script)
    assert bench.ended()
    assert bench.service.restarts == 0


def test_nothing_is_started_again_while_the_run_ends(tmp_path: Path, benches: list[Bench]) -> None:
    bench = bench_of(benches, tmp_path, BREAKS)
    assert not bench.ended()  # its restart is due in half a second
    assert bench.service.turn(reports=0, stopping=True) is None
    assert len(bench.children) == 1


def test_a_restart_waits_longer_each_time_in_vain(tmp_path: Path, benches: list[Bench]) -> None:
    bench = bench_of(benches, tmp_path, BREAKS, max_restarts=3)
    began = time.monotonic()
    assert bench.until(3)
    assert time.monotonic() - began >= 0.5 + 1.0
