"""A stop by signals or by the hub, and what becomes of a learner that does not follow. No processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from oatmill.errors import RunError
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.signals import Interrupts
from runner.local.reporter import LineReporter
from runner.local.stop_request import STOP_EARLY_WITHIN_S, STOP_WITHIN_S, StopRequest


class Scene:
    """A stop request, its learner and its hub in one."""

    def __init__(self, *, reports: int = 5, checkpoint: bool = True) -> None:
        self.said: list[str] = []
        self.did: list[str] = []
        self.interrupts = Interrupts()
        reporter = LineReporter(self.said.append)
        reporter.reports = reports
        self.request = StopRequest(
            self.interrupts,
            cast("Any", self),
            reporter,
            AwakeClock(),
            lambda: self.did.append("begun"),
            has_checkpoint=lambda: checkpoint,
        )

    def take(self) -> None:
        self.request.take_interrupts(cast("Any", self))

    def signal(self) -> None:
        self.interrupts._stops.count += 1

    def stop(self) -> bool:
        self.did.append("hub told")
        return True

    def terminate(self) -> None:
        self.did.append("terminated")

    def kill(self) -> None:
        self.did.append("killed")


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scene, float], None]:
    """Lets time pass, looking once a second."""
    real, passed = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed[0])

    def look(scene: Scene, seconds: float) -> None:
        for _ in range(round(seconds)):
            passed[0] += 1.0
            scene.take()

    return look


def test_the_first_signal_asks_for_an_orderly_end_once_and_the_second_one_ends_the_run_at_once() -> None:
    scene = Scene()
    scene.take()
    assert not scene.request.made
    scene.signal()
    scene.take()
    scene.take()
    assert scene.request.made
    assert scene.did == ["begun", "hub told"]
    assert scene.said == [
        "stopping: the learner finishes its step and saves a checkpoint (press Ctrl-C again to stop immediately)"
    ]
    scene.interrupts._stops.hasty = True
    scene.take()
    scene.take()
    assert scene.said[1:] == [
        "this signal came within 1 s of the first one and does not count; press Ctrl-C again to stop immediately"
    ]
    scene.signal()
    with pytest.raises(RunError, match="stopped immediately after a second signal"):
        scene.take()


def test_a_learner_that_has_trained_nothing_is_ended_by_a_signal_and_soon_killed(wait: Callable[[Scene, float], None]) -> None:
    scene = Scene(reports=0)
    scene.signal()
    wait(scene, STOP_EARLY_WITHIN_S - 1)
    assert scene.did == ["begun", "terminated"]
    assert scene.said == ["stopping: nothing is trained yet (press Ctrl-C again to stop immediately)"]
    wait(scene, 3)
    assert scene.did[2] == "killed"


def test_a_learner_whose_first_step_ends_after_the_signal_has_time_to_save(wait: Callable[[Scene, float], None]) -> None:
    scene = Scene(reports=0)
    scene.signal()
    scene.take()
    scene.request._reporter.reports = 1  # type: ignore[misc]
    wait(scene, STOP_WITHIN_S - 1)
    assert scene.did == ["begun", "terminated"]


def test_a_learner_that_does_not_save_in_time_is_killed_and_the_run_fails(wait: Callable[[Scene, float], None]) -> None:
    scene = Scene()
    scene.request.check_hub_status({"stop": True})
    scene.request.check_hub_status({"stop": True})
    assert (scene.did, scene.said) == (["begun"], [])
    wait(scene, STOP_WITHIN_S - 1)
    with pytest.raises(RunError, match="the learner did not end within 60 s after the stop request"):
        wait(scene, 3)
    assert scene.did == ["begun", "killed"]


@pytest.mark.parametrize(
    ("checkpoint", "rest"),
    [
        (True, "what came after its newest checkpoint is lost; --resume continues from there"),
        (False, "there is no checkpoint yet, so the run cannot be continued: start it again"),
    ],
)
def test_a_run_that_ends_without_saving_promises_a_checkpoint_only_if_there_is_one(
    checkpoint: bool, rest: str, wait: Callable[[Scene, float], None]
) -> None:
    hasty = Scene(checkpoint=checkpoint)
    hasty.signal()
    hasty.take()
    hasty.signal()
    with pytest.raises(RunError, match=f"^stopped immediately after a second signal; {rest}$"):
        hasty.take()
    stuck = Scene(checkpoint=checkpoint)
    stuck.request.check_hub_status({"stop": True})
    with pytest.raises(RunError, match=f"within 60 s after the stop request and was killed; {rest}$"):
        wait(stuck, STOP_WITHIN_S + 2)


def test_a_hub_that_does_not_answer_or_has_not_been_asked_begins_no_stop() -> None:
    scene = Scene()
    for status in (None, {"stop": False}):
        scene.request.check_hub_status(status)
    assert not scene.request.made
