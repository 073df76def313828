"""Whether the actors or the learner limit the speed of a run, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator

from deploy.curves import column
from deploy.doctor.examined_run import WINDOW, ExaminedRun, mean
from deploy.doctor.findings import Finding
from replay.ingest.actors.credit import batches_for_all, most_rows, most_rows_while_waiting
from replay.store.buffer import replayed_rows

STARVED, BUSY = 0.4, 0.05
"""Fractions of its time that a learner waits for data."""


def bottleneck(run: ExaminedRun) -> Iterator[Finding]:
    """Whether the learner waits for the actors, or the actors for the learner."""
    waits = mean(column(run.lines[1:][-WINDOW:], "wait_fraction"))  # without the first batch, which waits for the start
    count, envs = (run.setting(f"actors.{name}") for name in ("count", "envs_per_actor"))
    if waits > STARVED:
        text = f"the learner waits for data {waits:.0%} of the time: {count:.0f} actor(s) are the bottleneck"
        tries: tuple[str, ...] = (f"actors.envs_per_actor={4 * envs:.0f}", f"actors.count={count + 1:.0f}")
        if (limited := _limited_by_the_queue(run, count)) is not None:
            working, tries = limited
            text += f"; the queue has room for only {working} of them at all times"
        yield Finding(wrong=True, topic="bottleneck", text=text, tries=tries)
    elif math.isfinite(waits):
        who = "the learner is the bottleneck, as it should be" if waits < BUSY else "neither side waits for long"
        yield Finding(wrong=False, topic="bottleneck", text=f"the learner waits for data {waits:.0%} of the time: {who}")


def _limited_by_the_queue(run: ExaminedRun, count: float) -> tuple[int, tuple[str, ...]] | None:
    """How many actors the queue always has room for, and what makes more room; None if it has room for all, or is not known."""
    size, learners = run.setting("trainer.batch_size"), run.setting("trainer.learners")
    fraction, batches = (run.setting(f"replay.{name}") for name in ("fraction", "queue_batches"))
    capacity = run.recent("queue", "capacity")
    if not all(map(math.isfinite, (size, learners, fraction, batches, capacity, count))):
        return None
    part = int(size // learners)
    fresh = int(learners) * (part - replayed_rows(fraction, part))
    block = int(capacity) - most_rows(batches, fresh, 1) + 1  # the limit grows by one with each further trajectory of a block
    synchronous = run.setting("actors.synchronous") == 1
    room = most_rows_while_waiting(batches, fresh, block, synchronous=synchronous)
    if not synchronous:
        room -= fresh - 1  # that wait for the rest of their batch; synchronous actors wait for the learner then
    if block < 1 or count * block <= room:
        return None
    larger = f"trainer.batch_size={2 * size:.0f}"
    if synchronous:
        return room // block, (larger,)
    return room // block, (f"replay.queue_batches={batches_for_all(fresh, block, int(count)):g}", larger)
