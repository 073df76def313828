"""Marks: positions in the log that the learner stores in its checkpoints.

The learner asks for a mark for each new checkpoint. When a learner resumes, the mark in its checkpoint is
compared with the log.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgpack

from protocol.wire import messages
from replay.ingest.batches.server import BatchServer
from replay.log.journal import Journal
from replay.log.marks import Mark, difference
from replay.store.replayed_share import ReplayedShare


@dataclass(frozen=True)
class MarkAnswer:
    """An answer that is sent as soon as the log contains the mark's record."""

    route: bytes
    question: messages.LogMark
    values: dict[str, Any]  # id, cursor and digest
    record: int  # the number of the mark's record


class CheckpointMarks:
    """Answers the learner's questions for marks, and compares marks with the log.

    Args:
        journal: the log.
        batches: has the open questions.
        replayed: saves a snapshot of the replay buffer for each checkpoint.

    Attributes:
        complaints: a line for each checkpoint that does not fit the log, until they are reported.
    """

    def __init__(self, journal: Journal, batches: BatchServer, replayed: ReplayedShare) -> None:
        self._journal, self._batches, self._replayed = journal, batches, replayed
        self._answers: list[MarkAnswer] = []
        self.complaints: list[str] = []

    def compare(self, mark: Mark | None) -> None:
        """Add a complaint if this is not the log that existed when the learner's checkpoint was written."""
        journal, state = self._journal, self._journal.state
        text = difference(mark, state.identity, list(state.marks)) if mark is not None and journal.durable else ""
        if text:
            journal.damage.append(text)
            self.complaints.append(text)

    def record(self) -> None:
        """Record a mark for every question that can be answered."""
        for route, question in self._batches.marks_due():
            values = self._mark_for(question.policy_version)
            record = self._journal.record("marked", values["cursor"], values["digest"])
            self._answers.append(MarkAnswer(route, question, values, record))
            self._replayed.save(question.learner_step, question.policy_version)
            self._journal.keep_tally()

    def _mark_for(self, version: int) -> dict[str, Any]:
        """Return a checkpoint's mark: the log's id, the position, and a digest of the log's state."""
        state = self._journal.state
        later = (entry.number for entry in state.trained_parts if entry.version > version)
        digest = hashlib.blake2b(msgpack.packb(state.to_plain()), digest_size=16).hexdigest()
        return {"id": state.identity, "cursor": next(later, self._journal.next + 1), "digest": digest}

    def answer(self) -> None:
        """Answer the questions whose marks the log contains."""
        committed = self._journal.committed
        for answer in self._answers:
            if answer.record < committed:
                self._batches.answer_mark(answer.route, answer.question, answer.values)
        self._answers = [answer for answer in self._answers if answer.record >= committed]
