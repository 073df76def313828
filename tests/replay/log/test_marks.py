"""A learner that resumes from a checkpoint sends the checkpoint's point in the log, so that another log is detected."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.wire import messages
from protocol.wire.codec import encode, from_json, to_json
from replay.ingest.core import IngestCore
from tests.replay.conversation import Conversation, batches_in
from tests.replay.log.fake_disk import FakeDisk
from tests.replay.log.flips import open_journal


def serving(disk: FakeDisk, server: int) -> Conversation:
    """A server of the log on a disk."""
    talk = Conversation()
    talk.core = IngestCore(talk.core._settings, journal=open_journal(disk, 2**20), server=server)
    talk.hub(0)
    return talk


def checkpoint(disk: FakeDisk) -> dict[str, Any]:
    """Return the log's point for a checkpoint after one batch."""
    talk = serving(disk, 1)
    talk.hello()
    talk.learn()
    for first in (0, 2):
        talk.send(first)
    ((batch, _),) = batches_in(talk.get())
    talk.consumed(batch.batch_id, version=1)
    talk.core.receive_batches(b"rank 0", encode(messages.LogMark(0, "t", 1, batch.batch_id, 1))[0])
    for _ in range(3):  # the answer waits until the log holds it
        talk.core.turn(talk.now)
    (values,) = [payload for _, (header, payload) in talk.core.outgoing_batches() if b"SNAPSHOT" in bytes(memoryview(header))]
    mark = from_json(values)
    talk.core.journal.close()
    return mark


def said_at_resume(disk: FakeDisk, mark: dict[str, Any]) -> list[str]:
    """Return the next server's complaints when a learner resumes from a checkpoint with this mark."""
    talk = serving(disk, 2)
    talk.tell(messages.BatchHello(0, 1, talk.batch_rows, "u", 1, 1), payload=bytes(memoryview(to_json(mark))))
    assert talk.core.report()["log"]["damaged"] == len(talk.core.marks.complaints), "the metric counts it"
    assert talk.core.ledger()["lost"] == 0
    return talk.core.marks.complaints


def test_a_learner_that_resumes_from_its_own_checkpoint_causes_no_complaint() -> None:
    disk = FakeDisk()
    assert said_at_resume(disk, checkpoint(disk)) == []


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("id", "another", "the learner's checkpoint belongs to the log 'another', and this is "),
        ("cursor", 10**6, "the log does not have the point 1000000 of the learner's checkpoint"),
        ("digest", "0" * 32, "the log does not have the point "),
    ],
)
def test_a_checkpoint_of_another_log_or_point_is_reported_and_counted(field: str, value: object, expected: str) -> None:
    disk = FakeDisk()
    (text,) = said_at_resume(disk, checkpoint(disk) | {field: value})
    assert text.startswith(expected)


def test_a_new_log_does_not_have_the_checkpoints_point() -> None:
    (text,) = said_at_resume(FakeDisk(), checkpoint(FakeDisk()))
    assert text.startswith("the log does not have the point ")
