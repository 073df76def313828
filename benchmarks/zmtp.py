"""A small DEALER socket on a Unix socket, without libzmq, so that one process can have hundreds of them.

It implements ZMTP 3.0 (RFC 23) with the mechanism NULL. Real actors are separate processes, often on other
hosts. In this benchmark a few processes on the server's machine replace all of them. There, the threads,
wake-ups and copies of libzmq would take more CPU time than the server. The bytes on the wire are the same.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from protocol.wire.codec import Buffer, Frames

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""The client's greeting: signature, version 3.0 and mechanism."""
MORE, LONG, COMMAND = 1, 2, 4
SHORT_BYTES = 255
READ_BYTES = 2**16


class Dealer:
    """One connection.

    Args:
        address: `ipc://` and the path of a listening socket.
    """

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address.removeprefix("ipc://"))
        self._outbox = b""  # bytes that are not sent yet
        self._inbox = b""  # bytes of an incomplete message
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        self._socket.sendall(GREETING + bytes([COMMAND, len(ready)]) + ready)
        greeting = self._exactly(len(GREETING))
        if greeting[0] != GREETING[0] or greeting[9:11] != GREETING[9:11]:  # the 8 bytes between are unused
            raise ConnectionError(f"{address} does not speak ZMTP 3")
        flags, length = self._exactly(2)
        answer = self._exactly(length)
        if flags != COMMAND or not answer.startswith(b"\x05READY"):
            raise ConnectionError(f"{address} answers {answer!r}")
        self._socket.settimeout(0.0)

    def _exactly(self, length: int) -> bytes:
        found = b""
        while len(found) < length:
            part = self._socket.recv(length - len(found))
            if not part:
                raise ConnectionError("the server has closed the connection")
            found += part
        return found

    @property
    def handle(self) -> int:
        """The file descriptor, for a poller."""
        return self._socket.fileno()

    @property
    def idle(self) -> bool:
        """Whether everything has been sent."""
        return not self._outbox

    def send(self, message: Frames | None = None) -> None:
        """Queue a message and send as much as possible without blocking."""
        parts: list[Buffer] = [self._outbox]
        if message is not None:
            header, payload = message
            parts = [self._outbox + prefix(len(header), MORE) + header + prefix(len(payload), 0), payload]
        try:
            sent = self._socket.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        self._outbox = b"" if sent == sum(map(len, parts)) else b"".join(parts)[sent:]

    def receive(self) -> Iterator[Frames]:
        """All received messages.

        Raises:
            ConnectionError: if the server has closed the connection.
        """
        try:
            came = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        if not came:
            raise ConnectionError("the server has closed the connection")
        self._inbox += came
        frames, start = [], 0
        while (frame := frame_at(self._inbox, start)) is not None:
            flags, content, start = frame
            frames.append(content)
            if not flags & MORE:
                header, payload = frames
                yield header, payload
                frames, self._inbox, start = [], self._inbox[start:], 0

    def close(self) -> None:
        """Close the connection without waiting."""
        self._socket.close()


def prefix(length: int, flags: int) -> bytes:
    """The header of a frame."""
    return bytes([flags, length]) if length <= SHORT_BYTES else struct.pack(">BQ", flags | LONG, length)


def frame_at(data: bytes, start: int) -> tuple[int, bytes, int] | None:
    """The frame at a position: flags, content and the next position; None if it is incomplete."""
    if len(data) < start + 2:
        return None
    flags, begins = data[start], start + 2
    length = data[start + 1]
    if flags & LONG:
        begins = start + 9
        if len(data) < begins:
            return None
        length = int.from_bytes(data[start + 1 : begins])
    end = begins + length
    return None if len(data) < end else (flags, data[begins:end], end)
