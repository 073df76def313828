"""What the doctor says of a learner that waits for data."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.doctor.bottleneck import bottleneck
from deploy.doctor.examined_run import ExaminedRun
from deploy.doctor.findings import Finding

SETTINGS = {
    "actors.count": 2.0,
    "actors.envs_per_actor": 32.0,
    "actors.synchronous": 0.0,
    "replay.fraction": 0.75,
    "replay.queue_batches": 1.0,
    "trainer.batch_size": 96.0,
    "trainer.learners": 1.0,
}
"""A batch has 24 fresh trajectories, and each actor collects 32 at a time."""


def found(waits: float, capacity: int | None = 55, **settings: float) -> Finding:
    line: dict[str, Any] = {"wait_fraction": waits, "queue": {"trajectories": 32, "capacity": capacity}}
    changed = SETTINGS | {path.replace("__", "."): value for path, value in settings.items()}
    (finding,) = bottleneck(ExaminedRun("a run", (line, line), changed))
    return finding


def test_more_actors_are_suggested_where_all_of_them_work() -> None:
    # 61 is 30 and a block of 32, minus one. While the learner waits, 30 come to it; without 23 that wait, there is room for 68.
    finding = found(0.6, capacity=61, replay__queue_batches=1.25)
    assert finding.wrong
    assert finding.tries == ("actors.envs_per_actor=128", "actors.count=3")
    assert "the queue" not in finding.text


def test_more_room_is_suggested_where_the_queue_keeps_actors_idle() -> None:
    # 55 is 24 and a block of 32, minus one. While the learner waits, 24 come to it; without 23 that wait, 56: one block.
    # By hand: two blocks and 23 are 87, so 1.2 batches of 24 twice, and 31.
    finding = found(0.6)
    assert finding.wrong
    assert "the queue has room for only 1 of them at all times" in finding.text
    assert finding.tries == ("replay.queue_batches=1.2", "trainer.batch_size=192")
    synchronous = found(0.6, actors__synchronous=1.0)
    assert "only 1 of them" in synchronous.text
    assert synchronous.tries == ("trainer.batch_size=192",)


def test_nothing_is_said_of_the_queue_where_a_number_is_not_known() -> None:
    unknown = float("nan")
    for finding in (found(0.6, replay__fraction=unknown), found(0.6, trainer__learners=unknown), found(0.6, capacity=None)):
        assert finding.wrong
        assert "the queue" not in finding.text


@pytest.mark.parametrize(("waits", "text"), [(0.01, "the learner is the bottleneck"), (0.2, "neither side waits for long")])
def test_a_learner_that_does_not_wait_long_is_no_problem(waits: float, text: str) -> None:
    finding = found(waits)
    assert not finding.wrong
    assert text in finding.text
