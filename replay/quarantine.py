"""Keeps the newest bad messages as small files.

It is limited in files, bytes and writes per second, and never fails.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from oatmill.errors import WireError
from protocol.wire.codec import Buffer
from protocol.wire.reasons import REJECTED_REASONS

FILES = 32
"""The number of files of each of the server's two processes. The oldest is overwritten."""
HEADER_BYTES = 1024
"""The number of bytes of a header that are kept."""
MAX_FILE_BYTES = 4096
WRITES_A_SECOND = 10
"""A flood of bad messages must not keep the server busy writing. All of them are counted in
`oatmill_rejected_total`."""


@dataclass(frozen=True)
class BadMessage:
    """One bad message.

    Attributes:
        socket: the socket that it arrived on: data, batches, control or weights.
        reason: one of `protocol.wire.reasons`.
        detail: what was expected and what came.
        header: the first bytes of its first frame; empty if the message had a wrong number of
            frames.
        payload_bytes: the length of its second frame.
    """

    socket: str
    reason: str
    detail: str
    header: bytes
    payload_bytes: int

    @staticmethod
    def of(error: WireError, socket: str, header: Buffer = b"", payload: Buffer = b"") -> BadMessage:
        """Build it from the error that a check raised."""
        kept = bytes(memoryview(header)[:HEADER_BYTES])
        return BadMessage(socket, error.reason, error.detail[:HEADER_BYTES], kept, memoryview(payload).nbytes)

    def to_json(self, wall: float) -> str:
        """Return at most MAX_FILE_BYTES of ASCII."""
        values = {"time": wall, "socket": self.socket, "reason": self.reason, "payload_bytes": self.payload_bytes}
        text = json.dumps(values | {"detail": self.detail, "header": self.header.hex()}) + "\n"
        if len(text) > MAX_FILE_BYTES:  # JSON may write six characters for one character of the detail
            text = json.dumps(values | {"detail": "", "header": self.header.hex()}) + "\n"
        return text


class Quarantine:
    """A ring of files in one folder. If the disk is full or missing, it keeps less.

    Args:
        folder: the folder, created with the first file; None keeps nothing.
        name: the process's name, used as the prefix of the files.

    Attributes:
        kept: the number of files written.
        skipped: the number of messages that were not written: there were too many, or the disk
            failed.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._folder, self._name = folder, name
        self._second, self._written = -1, 0
        self.kept = self.skipped = 0

    def keep(self, messages: Iterable[BadMessage]) -> None:
        """Write some messages to files."""
        for message in messages:
            if self._write(message):
                self.kept += 1
            else:
                self.skipped += 1

    def _write(self, message: BadMessage) -> bool:
        wall = time.time()
        if self._folder is None or not self._may_write(int(wall)):
            return False
        path = self._folder / f"{self._name}-{self.kept % FILES:02d}.json"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path.write_text(message.to_json(wall))
        except OSError:
            return False
        return True

    def _may_write(self, second: int) -> bool:
        if second != self._second:
            self._second, self._written = second, 0
        self._written += 1
        return self._written <= WRITES_A_SECOND


class Rejections:
    """The bad messages that one process has received.

    Args:
        kept: the number of newest messages that are kept.

    Attributes:
        counts: the number of bad messages, by reason.
        newest: the newest messages, until `Quarantine.keep` has written them.
        lines: the newest messages, one line each.
    """

    def __init__(self, kept: int) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(REJECTED_REASONS, 0))
        self.newest: deque[BadMessage] = deque(maxlen=kept)
        self.lines: deque[str] = deque(maxlen=kept)

    def add(self, message: BadMessage) -> None:
        """Count a bad message."""
        self.counts[message.reason] += 1
        self.newest.append(message)
        self.lines.append(f"{message.reason}: {message.detail}")

    def add_connections(self, connections: int, reason: str = "unknown_key") -> None:
        """Count connections that were rejected because of an unknown key, or closed for another reason."""
        self.counts[reason] += connections
