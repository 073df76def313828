"""A disk that loses unsynced data, leaves partial writes, and fills up."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from protocol.wire.codec import Buffer
from replay.log.records import RECORD_BYTES


@dataclass
class FakeDisk:
    """Files in memory.

    Attributes:
        files: what a reader sees.
        synced: how much of each survives a crash of the host for certain.
        room: bytes that can still be written; None for any number.
        syncs: how often it was synced.
        sync_fails: whether the next syncs fail.
    """

    files: dict[str, bytearray] = field(default_factory=dict)
    synced: dict[str, int] = field(default_factory=dict)
    room: int | None = None
    syncs: int = 0
    sync_fails: bool = False
    current: str = ""
    last: bytes = b""  # what was written last

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return bytes(self.files[name])

    def read_part(self, name: str, offset: int, length: int) -> bytes:
        return bytes(self.files[name][offset : offset + length])

    def create(self, name: str) -> None:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.files[name], self.synced[name], self.current = bytearray(), 0, name

    def append(self, buffers: Sequence[Buffer]) -> None:
        self.last = data = b"".join(buffers)
        fits = data if self.room is None else data[: self.room]
        self.files[self.current] += fits
        if self.room is not None:
            self.room -= len(fits)
        if len(fits) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def sync(self) -> None:
        if self.sync_fails:
            raise OSError(errno.EIO, "Input/output error")
        self.syncs += 1
        self.synced[self.current] = len(self.files[self.current])

    def cut(self, name: str, length: int) -> None:
        if self.room is not None:
            self.room += len(self.files[name]) - length
        del self.files[name][length:]
        self.synced[name] = min(self.synced[name], length)

    def remove(self, name: str) -> None:
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        if self.room is not None:
            self.room += len(self.files[name])
        del self.files[name], self.synced[name]

    def keep(self, name: str, aside: str) -> None:
        self.files[aside], self.synced[aside] = bytearray(self.files[name]), len(self.files[name])

    def replace(self, name: str, content: bytes) -> None:
        if self.room is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.files[name], self.synced[name] = bytearray(content), len(content)

    def crash(self, random: Random) -> None:
        """Let the host die: any part of unsynced data, or garbage, remains.

        It may die while it writes. Then the disk may contain the beginning of a record with its
        length and zeros in place of the rest, so that only the checksum shows the difference.
        """
        if self.current in self.files and random.random() < 0.5:
            self.files[self.current] += self.last[:RECORD_BYTES] + bytes(len(self.last[RECORD_BYTES:]))
            self.synced[self.current] = len(self.files[self.current])
        for name in self.files:
            content = self.files[name]
            end = random.randint(self.synced[name], len(content))
            torn = len(content) - end
            del content[end:]
            if torn and random.random() < 0.3:
                content.extend(random.randbytes(random.randint(1, torn)))
            elif torn and random.random() < 0.3:
                content.extend(bytes(torn))  # the file had grown, its bytes had not arrived
            self.synced[name] = len(content)
