"""Records every change in ingest.

A record is applied to the state at once, and written to the log in groups.

With `replay.acknowledge=durable`, payloads are logged, too, and a group is synced before any other
process learns about it. With `memory`, the log has no payloads and is not synced. After a crash, it
still shows exactly what was lost.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any

import msgpack

from oatmill.errors import UserError
from oatmill.files.state_file import DamagedStateError, decode_state, encode_state
from protocol.wire.codec import Buffer
from replay.histogram import SECONDS_BUCKETS, Histogram
from replay.log import tally
from replay.log.disk import Disk
from replay.log.reader import BAD_RECORD, STATE, LogReader, lost_in, packed
from replay.log.segments import SegmentLog
from replay.log.state import LogState

_log = logging.getLogger("oatmill.replay.log")

GROUP_S = 0.01
"""While more messages wait to be read, a commit waits for them, but not longer, and not for more
bytes than this."""
GROUP_BYTES = 2**20
"""While more messages wait to be read, a commit waits for them, but no longer and for no more bytes
than this."""
RETRY_EVERY_S = 0.25
SEGMENT_BYTES = 64 * 2**20
TALLY_EVERY_S = 10.0


class Journal:
    """The log, and the state that results from its records.

    Args:
        state: the state; None starts with an empty one.
        log: records are written to it; None keeps them in memory only.
        durable: whether payloads are logged and acknowledgements wait for the disk.
        kept_bytes: if the log is larger, payloads of trained data are removed.

    Attributes:
        state: as above.
        durable: as above.
        stalled: whether the disk refuses writes.
        seconds: durations of the commits.
        damage: a line for each damaged or missing thing that was found when the log was read.
        missing: the number of missing records.
    """

    def __init__(
        self, state: LogState | None = None, log: SegmentLog | None = None, *, durable: bool = False, kept_bytes: int = 2**30
    ) -> None:
        self.state = LogState() if state is None else state
        self._log, self.durable, self._kept_bytes = log, durable, kept_bytes
        self._number = 0  # the next record's number, without a log
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
        """Read a log, or start a new one.

        Args:
            disk: the folder of the log.
            durable: as for the class.
            keep_trained: whether payloads of trained data are kept until a checkpoint contains the
                training.
            steps: T of this run.
            kept_bytes: as for the class.
            segment_bytes: the size after which a new segment is started.
            run: the run's id.

        Raises:
            UserError: if the log cannot be read, or belongs to a run with another T.
        """
        state = LogState(keep_trained)
        log = SegmentLog(disk, segment_bytes=min(segment_bytes, max(1, kept_bytes // 4)), run=run)
        journal = Journal(state, log, durable=durable, kept_bytes=kept_bytes)
        journal._disk = disk
        try:
            journal._read(log)
        except OSError as error:
            raise UserError(
                f"the log of an earlier server cannot be read: {error}; check the disk, or move the log away"
            ) from None
        state.keep_trained = keep_trained
        if state.identity and state.steps not in (0, steps):
            raise UserError(
                f"the log has trajectories of actors.unroll_length={state.steps}, this run has {steps}; change it back, or "
                "move the log away to continue without its data"
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
            kept = f"it is kept as {found.aside}" if found.aside else "a copy could not be kept"
            self.damage.append(f"the log's {found.segment} is damaged, {found.missing} records are missing: {kept}")
        self._compare_tally(log, known, complaint)
        if self.damage:
            lost = lost_in(self.state)
            self.damage[-1] += f"; so far, {lost} trajectories of this run are lost"
        self._tally_due = self.state.schema is not None

    def _read_tally(self) -> tuple[dict[str, Any] | None, str]:
        """Return the tally, or None and a description of what is wrong with it (empty if there is none yet)."""
        assert self._disk is not None, "it was opened"
        try:
            known: dict[str, Any] = decode_state(tally.KIND, self._disk.read(tally.NAME))
            tally.raise_to(LogState(), known, 0)
        except FileNotFoundError:
            return None, ""
        except (DamagedStateError, OSError, *BAD_RECORD) as error:
            return None, f"the log's {tally.NAME} is damaged ({error}): it is written again from the log"
        return known, ""

    def _compare_tally(self, log: SegmentLog, known: dict[str, Any] | None, complaint: str) -> None:
        if known is None:
            self.damage += [complaint] if complaint else []
            return
        missing = tally.raise_to(self.state, known, log.next)
        log.skip_to(known["next"])
        if missing:
            self.missing += missing
            self.damage.append(f"{missing} records that the tally counted are missing at the log's end")

    def keep_tally(self) -> None:
        """Write the tally as soon as the log contains everything that has happened so far."""
        self._tally_due = True

    def _write_tally(self) -> None:
        """Write the tally.

        If the disk is full, the old one stays, and the next checkpoint writes a new one.
        """
        self._tally_due = False
        if self._disk is None:
            return
        try:
            self._disk.replace(tally.NAME, encode_state(tally.KIND, tally.tally_of(self.state, self.next)))
        except OSError as error:
            _log.warning("the log's %s could not be written: %s", tally.NAME, error.strerror)

    def record(self, name: str, *values: Any, payload: Buffer = b"") -> int:
        """Record and apply one change; returns the record's number."""
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
        """All records below this number are safe: actors may be told, and the learner may get batches."""
        return self._number if self._log is None else self._log.committed

    @property
    def nbytes(self) -> int:
        """The size of the log on the disk."""
        return 0 if self._log is None else self._log.nbytes

    def commit(self, now: float, *, more: bool = False) -> None:
        """Write waiting records, if it is time to.

        Args:
            now: seconds of the monotonic clock.
            more: whether more messages wait to be read; the group may then wait a little for them.
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
            _log.warning("the log can be written again; acknowledgements continue")
        if self._tally_due or now - self._tally_at > TALLY_EVERY_S:
            self._tally_at = now
            self._write_tally()
        self._tidy(log)  # after the tally: it may record more, which is not on the disk yet

    def close(self) -> None:
        """Write the tally, if the log contains everything that has happened."""
        if self.committed == self.next:
            self._write_tally()

    def _fail(self, error: OSError, now: float) -> None:
        assert self._log is not None, "only a log fails"
        self._retry_at = now + RETRY_EVERY_S
        if not self.durable:  # nothing was promised; the next segment begins with the state and closes the gap
            self._log.discard()
        elif not self.stalled:
            self.stalled = True
            _log.error("the log cannot be written (%s): nothing is acknowledged until it can", error)

    def _tidy(self, log: SegmentLog) -> None:
        """Remove segments that no row needs any more, once the records that say so are on the disk."""
        log.remove_before(next(iter(self.state.blocks), log.next))
        oldest = self.state.oldest_kept if log.nbytes > self._kept_bytes else None
        if oldest is not None:  # one at a time: its segment is removed after the next commit
            self.record("committed", oldest.number + 1)

    def _state(self) -> bytes:
        packed: bytes = msgpack.packb([STATE, self.state.to_plain()])
        return packed

    def has(self, number: int) -> bool:
        """Whether the payload of a stored block can be read again."""
        return self._log is not None and number in self._log.places

    def read(self, number: int) -> bytes:
        """Return the payload of a stored block; `has` must be true.

        Raises:
            OSError: if the disk cannot be read.
        """
        assert self._log is not None, "nothing is kept without a log"
        return self._log.read(number)


def read_into(state: LogState, log: SegmentLog, known: dict[str, Any] | None = None) -> LogReader:
    """Apply all records of a log. If some are missing, their content is lost.

    Args:
        state: gets the records.
        log: the log to read.
        known: its tally; None without one.

    Raises:
        UserError: if it is a log in the old format with a gap that nothing makes up for.
        OSError: if the disk cannot be read.
    """
    if known is None:
        reader = LogReader(state)
    else:
        reader = LogReader(state, tally_at=known["next"], restore=lambda: tally.restore(state, known))
    for record in log.recover():
        reader.take(record)
    if not reader.in_step:
        raise UserError(
            "the log of an earlier server is damaged and cannot be repaired; move it away to continue without its data"
        )
    reader.end()
    return reader
