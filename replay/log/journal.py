"""Records every change: each record is applied to the state at once, written to the log in a group, and read after a crash.

With `replay.acknowledge=durable`, payloads are logged, too, and a group is synced before any process is told about it. With
`memory`, the log has no payloads and is not synced. After a crash it still tells exactly what was lost.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any

import msgpack

from oatmill.errors import UserError
from oatmill.files.atomic import DamagedStateError, sealed, unsealed
from protocol.wire.codec import Buffer
from replay.histogram import SECONDS_BUCKETS, Histogram
from replay.log import tally
from replay.log.disk import Disk
from replay.log.salvage import BAD_RECORD, STATE, Reader, lost_in, packed
from replay.log.segments import SegmentLog
from replay.log.state import LogState

_log = logging.getLogger("oatmill.replay.log")

GROUP_S = 0.01
GROUP_BYTES = 2**20
"""While more messages wait to be read, a commit waits for them, but no longer and for no more bytes than this."""
RETRY_EVERY_S = 0.25
SEGMENT_BYTES = 64 * 2**20
TALLY_EVERY_S = 10.0


class Journal:
    """The log, and the state that it leads to.

    Args:
        state: the state that the records lead to.
        log: where records are written; None keeps them in memory only.
        durable: whether payloads are logged and acknowledgements wait for the disk.
        kept_bytes: size of the log above which payloads that were trained on are removed.

    Attributes:
        state: as above.
        durable: as above.
        stalled: whether the disk refuses writes.
        seconds: durations of the commits.
        damage: a line for each damaged or missing thing that was found when the log was read.
        missing: number of missing records.
    """

    def __init__(
        self, state: LogState | None = None, log: SegmentLog | None = None, *, durable: bool = False, kept_bytes: int = 2**30
    ) -> None:
        self.state = LogState() if state is None else state
        self._log, self.durable, self._kept_bytes = log, durable, kept_bytes
        self._number = 0  # without a log
        self._waits_since: float | None = None
        self._retry_at = -float("inf")
        self.stalled = False
        self.damage: list[str] = []
        self.missing = 0
        self._disk: Disk | None = None
        self._tally_due, self._tally_at = False, -float("inf")
        self.seconds = Histogram(SECONDS_BUCKETS)

    @staticmethod
    def open(
        disk: Disk,
        *,
        durable: bool,
        keep_trained: bool,
        steps: int,
        kept_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        run: str = "",
    ) -> Journal:
        """Read a log, or begin one.

        Args:
            disk: its location.
            durable: as for the class.
            keep_trained: whether payloads of what was trained on are kept until a checkpoint holds it.
            steps: T of this run.
            kept_bytes: as for the class.
            segment_bytes: a segment that has grown beyond this is followed by another one.
            run: the run's id.

        Raises:
            UserError: if it cannot be read, or is of a run with another T.
        """
        state = LogState(keep_trained)
        log = SegmentLog(disk, segment_bytes=min(segment_bytes, max(1, kept_bytes // 4)), run=run)
        journal = Journal(state, log, durable=durable, kept_bytes=kept_bytes)
        journal._disk = disk
        try:
            journal._read(log)
        except OSError as error:
            raise UserError(
                f"the log of an earlier server cannot be read: {error}; look at the disk, or move the log"
            ) from None
        state.keep_trained = keep_trained
        if state.identity and state.steps not in (0, steps):
            raise UserError(
                f"the log holds trajectories of actors.unroll_length={state.steps}, this run has {steps}; set it back, or move "
                "the log away to go on without what waits in it"
            )
        if not state.identity or not state.steps:
            journal.record("began", state.identity or run or secrets.token_hex(8), steps)
        return journal

    def _read(self, log: SegmentLog) -> None:
        """Read the log and its tally."""
        known, complaint = self._read_tally()
        reader = read_into(self.state, log, known)
        self.missing = reader.missing
        for found in log.damage:
            kept = f"it is kept as {found.aside}" if found.aside else "the disk did not allow to keep it aside"
            self.damage.append(f"the log's {found.segment} is damaged, {found.missing} records are missing: {kept}")
        self._compare_tally(log, known, complaint)
        if self.damage:
            lost = lost_in(self.state)
            self.damage[-1] += f"; {lost} trajectories of this run are lost by now"
        self._tally_due = self.state.schema is not None

    def _read_tally(self) -> tuple[dict[str, Any] | None, str]:
        """The tally, or None and what is wrong with it; nothing is wrong if there is none yet."""
        assert self._disk is not None, "it was opened"
        try:
            known: dict[str, Any] = unsealed(tally.KIND, self._disk.read(tally.NAME))
            tally.raise_to(LogState(), known, 0)
        except FileNotFoundError:
            return None, ""
        except (DamagedStateError, OSError, *BAD_RECORD) as error:
            return None, f"the log's {tally.NAME} is damaged ({error}): it is written again out of the log"
        return known, ""

    def _compare_tally(self, log: SegmentLog, known: dict[str, Any] | None, complaint: str) -> None:
        if known is None:
            self.damage += [complaint] if complaint else []
            return
        missing = tally.raise_to(self.state, known, log.next)
        log.skip_to(known["next"])
        if missing:
            self.missing += missing
            self.damage.append(f"{missing} records are missing at the log's end, which the last checkpoint knew of")

    def keep_tally(self) -> None:
        """Have the log's tally written once the log holds everything that has happened so far."""
        self._tally_due = True

    def _write_tally(self) -> None:
        """A full disk costs the tally and not the run: the one before it stays, and the next checkpoint writes one."""
        self._tally_due = False
        if self._disk is None:
            return
        try:
            self._disk.replace(tally.NAME, sealed(tally.KIND, tally.tally_of(self.state, self.next)))
        except OSError as error:
            _log.warning("the log's %s could not be written: %s", tally.NAME, error.strerror)

    def record(self, name: str, *values: Any, payload: Buffer = b"") -> int:
        """Record one change and apply it; returns the record's number."""
        if self._log is None:
            number = self._number
            self._number += 1
        else:
            number = self._log.append(packed(self.state, name, values), payload if self.durable else b"")
        self.state.apply(number, name, values)
        self._tally_due |= name == "described"
        return number

    @property
    def next(self) -> int:
        """The number of the next record."""
        return self._number if self._log is None else self._log.next

    @property
    def committed(self) -> int:
        """The number below which everything may be relied on: told to actors, handed out to the learner."""
        return self._number if self._log is None else self._log.committed

    @property
    def nbytes(self) -> int:
        """Of the log on the disk."""
        return 0 if self._log is None else self._log.nbytes

    def commit(self, now: float, *, more: bool = False) -> None:
        """Write what waits, if it is time to.

        Args:
            now: seconds of the monotonic clock.
            more: whether messages wait to be read, for which the group may wait a little.
        """
        log = self._log
        if log is None or log.committed == log.next or now < self._retry_at:
            return
        if self._waits_since is None:
            self._waits_since = now
        if more and log.pending_bytes < GROUP_BYTES and now - self._waits_since < GROUP_S:
            return
        began = time.perf_counter()
        try:
            log.commit(self._state)
        except OSError as error:
            self._fail(error, now)
            return
        self.seconds.observe(time.perf_counter() - began)
        self._waits_since = None
        if self.stalled:
            self.stalled = False
            _log.warning("the log can be written again; acknowledgements go on")
        self._tidy(log)
        if self._tally_due or now - self._tally_at > TALLY_EVERY_S:
            self._tally_at = now
            self._write_tally()

    def close(self) -> None:
        """Write down what the log comes to, if it holds all that has happened."""
        if self.committed == self.next:
            self._write_tally()

    def _fail(self, error: OSError, now: float) -> None:
        assert self._log is not None, "only a log fails"
        self._retry_at = now + RETRY_EVERY_S
        if not self.durable:  # nothing has been promised; the next segment's state makes up for the gap
            self._log.discard()
        elif not self.stalled:
            self.stalled = True
            _log.error("the log cannot be written (%s): nothing is acknowledged until it can", error)

    def _tidy(self, log: SegmentLog) -> None:
        """Remove what no row needs any more, once the records that say so are on the disk."""
        log.remove_before(next(iter(self.state.blocks), log.next))
        oldest = self.state.oldest_kept if log.nbytes > self._kept_bytes else None
        if oldest is not None:  # one at a time: what it takes is removed after the next commit
            self.record("committed", oldest.number + 1)

    def _state(self) -> bytes:
        packed: bytes = msgpack.packb([STATE, self.state.to_plain()])
        return packed

    def has(self, number: int) -> bool:
        """Whether a stored block's payload can be read again."""
        return self._log is not None and number in self._log.places

    def read(self, number: int) -> bytes:
        """A stored block's payload; `has` must hold.

        Raises:
            OSError: if the disk cannot be read.
        """
        assert self._log is not None, "nothing is kept without a log"
        return self._log.read(number)


def read_into(state: LogState, log: SegmentLog, known: dict[str, Any] | None = None) -> Reader:
    """Apply every record of a log; where some are missing, what was in them is lost.

    Args:
        state: takes the records.
        log: is read.
        known: its tally, if there is one.

    Raises:
        UserError: if it is an old log and nothing makes up for what is missing.
        OSError: if the disk cannot be read.
    """
    if known is None:
        reader = Reader(state)
    else:
        reader = Reader(state, tally_at=known["next"], restore=lambda: tally.restore(state, known))
    for record in log.recover():
        reader.take(record)
    if not reader.in_step:
        raise UserError("the log of an earlier server is damaged beyond repair; move it away to go on without what it holds")
    reader.end()
    return reader
