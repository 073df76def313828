"""Limits the connections of a server, so that unknown clients cannot use up its descriptors and memory.

libzmq 4.3.5 limits the size of a frame and the duration of a handshake. It limits neither the
number of connections nor the number of frames in a message, and it keeps all frames in memory until
the last one has arrived. When no descriptor is left, its thread uses 100 % of a core. So a thread
watches the connections of each TCP socket and closes (shutdown(2)) those that are too many, or that
have sent too much without a whole message. A client whose connection is closed connects again and
loses nothing.

libzmq reports the descriptor of each connection when it is accepted and when it ends, and the
descriptor that a message came from. No event says which connection has finished its handshake. So a
connection counts as known from its first whole message on, which every client of this protocol
sends at once.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import zmq

from oatmill.process.memory import resident_memory

_log = logging.getLogger("oatmill.connections")

EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
SWEEP_MS = 50
MAX_UNKNOWN = 1024
"""The number of connections without a message that a socket may have. It is lower if the socket has
fewer than four times as many descriptors."""
FIRST_BYTES = 64 * 1024
"""The number of bytes that a connection may send before its first message is whole. First messages
are small."""
TURNS = 2
"""A connection is closed for sending too much only after the server has read messages this often:
what it sent may just not have been read yet."""
GROWTH_BYTES = 32 * 2**20
"""Known connections are checked only while the process's memory grows by this much, because each
check is a system call."""
ALERT_S = 2.0
TELL_EVERY_S = 10.0
BACK_OFF_S = 0.05
RECEIVED_OFFSET = 128  # of tcpi_bytes_received in Linux's struct tcp_info
MANY, MUCH = "too_many_connections", "too_much_unread"
"""The reasons why a connection is closed; see `protocol.wire.reasons`."""


@dataclass(slots=True, eq=False)
class OpenConnection:
    """An open connection.

    Attributes:
        fd: libzmq's descriptor.
        inode: identifies the socket, because descriptors are reused.
        address: the address of the other host.
        known: whether a whole message has arrived on it.
        base: the number of bytes that had been received when its last message arrived, if that was
            checked.
        over: the server's turn in which it was first found to have sent too much; -1 if it has not.
        cut: whether it was closed here and libzmq has not reported its end yet.
    """

    fd: int
    inode: int
    address: str
    known: bool = False
    base: int = 0
    over: int = -1
    cut: bool = False


class ConnectionLimits:
    """Watches the connections of one listening TCP socket until it is closed.

    Args:
        server: the socket, before it is bound.
        most: the number of connections that it may have.
        first_bytes: the number of bytes that a connection may send before its first message is
            whole.

    Attributes:
        allowed_bytes: the number of bytes that a known connection may send after its last message.
            The owner may change it at any time.
        recent: descriptors on which messages have arrived; the server adds to it.
        turns: how often the server has read messages; the server counts it.
        cut: the number of connections closed so far, by reason (MANY or MUCH).
    """

    def __init__(self, server: zmq.Socket[bytes], *, most: int, first_bytes: int = FIRST_BYTES) -> None:
        self._server, self._most, self._first_bytes = server, most, first_bytes
        self.most_unknown = min(MAX_UNKNOWN, max(1, most // 4))
        self.allowed_bytes = first_bytes
        self.recent: set[int] = set()
        self.turns = 0
        self.cut: Counter[str] = Counter()
        self._open: dict[int, OpenConnection] = {}  # by descriptor, the oldest first
        self._memory, self._alert_until = resident_memory(), 0.0
        self._told = -TELL_EVERY_S
        self._closing = threading.Event()
        address = f"inproc://connections-{id(server)}"
        server.monitor(address, EVENTS)
        self._events: zmq.Socket[bytes] = server.context.socket(zmq.PAIR)
        self._events.setsockopt(zmq.RCVHWM, 0)  # with a limit, libzmq's thread would wait for this one
        self._events.connect(address)
        self._thread = threading.Thread(target=self._run, name="connections", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching. Call it before the server's socket is closed."""
        self._closing.set()
        self._thread.join()
        self._server.disable_monitor()
        self._events.close(0)

    def _run(self) -> None:
        swept = time.monotonic()
        while not self._closing.is_set():
            try:
                if self._events.poll(SWEEP_MS):
                    self._take_events()
                    self._cut_too_many()
                if time.monotonic() - swept >= SWEEP_MS / 1000:
                    swept = time.monotonic()
                    self._cut_too_much(swept)
            except Exception:
                _log.exception("watching connections failed; trying again")
                self._closing.wait(BACK_OFF_S)

    # ------------------------------------------------------------------------------------------------- how many there are

    def _take_events(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                event, fd = struct.unpack("=HI", self._events.recv_multipart(zmq.NOBLOCK)[0])
                self._open.pop(fd, None)
                if event == zmq.EVENT_ACCEPTED:  # the server may have read its first message already
                    self._accepted(fd)
                else:
                    self.recent.discard(fd)

    def _accepted(self, fd: int) -> None:
        with contextlib.suppress(OSError), _borrowed(fd) as peer:  # the connection may have ended already
            self._open[fd] = OpenConnection(fd, os.fstat(fd).st_ino, peer.getpeername()[0])

    def _cut_too_many(self) -> None:
        self._note_known()
        connections = [connection for connection in self._open.values() if not connection.cut]
        unknown = [connection for connection in connections if not connection.known]
        excess = max(len(unknown) - self.most_unknown, len(connections) - self._most)
        if excess <= 0:
            return
        victims = crowding(unknown, excess)
        if len(victims) < excess:  # there are too many known ones: close the newest
            victims += [connection for connection in reversed(connections) if connection.known][: excess - len(victims)]
        for victim in victims:
            self._close(victim, MANY)

    def _note_known(self) -> list[OpenConnection]:
        """Mark the connections on which messages have arrived as known, and return them.

        A descriptor that was not reported as accepted yet waits in `recent`.
        """
        found = [connection for fd in list(self.recent) if (connection := self._open.get(fd)) is not None]
        for connection in found:
            self.recent.discard(connection.fd)
            connection.known = True
        return found

    # ------------------------------------------------------------------------------------------------- how much they send

    def _cut_too_much(self, now: float) -> None:
        alert = self._alert(now)
        for connection in self._note_known():
            connection.over = -1
            connection.base = _received(connection) if alert else 0
        for connection in list(self._open.values()):
            if not connection.cut and (alert or not connection.known) and self._sends_too_much(connection):
                self._close(connection, MUCH)

    def _alert(self, now: float) -> bool:
        """Whether the process's memory grows, so that known connections are checked, too."""
        memory = resident_memory()
        if memory > self._memory + GROWTH_BYTES:
            if now >= self._alert_until:
                for connection in self._open.values():
                    connection.base = _received(connection) if connection.known else 0
            self._alert_until = now + ALERT_S
            self._memory = memory
        self._memory = min(self._memory, memory)
        return now < self._alert_until

    def _sends_too_much(self, connection: OpenConnection) -> bool:
        unread = _received(connection) - connection.base
        if unread <= (self.allowed_bytes if connection.known else self._first_bytes):
            connection.over = -1
        elif connection.over < 0:
            connection.over = self.turns
        return 0 <= connection.over <= self.turns - TURNS

    # -------------------------------------------------------------------------------------------------------------- ending

    def _close(self, connection: OpenConnection, reason: str) -> None:
        """Shut a connection down, so that libzmq sees it end.

        libzmq may have closed the descriptor and reused it a moment ago. The inode shows this. If
        it happens between the two calls, another connection is closed; its client connects again.
        """
        connection.cut = True
        with contextlib.suppress(OSError):
            if os.fstat(connection.fd).st_ino == connection.inode:
                with _borrowed(connection.fd) as peer:
                    peer.shutdown(socket.SHUT_RDWR)
                self.cut[reason] += 1
                self._tell(connection, reason)

    def _tell(self, connection: OpenConnection, reason: str) -> None:
        """Log a line, but not for every connection."""
        if time.monotonic() - self._told >= TELL_EVERY_S:
            self._told = time.monotonic()
            _log.warning("a connection from %s was closed (%s); so far %s", connection.address, reason, dict(self.cut))


def crowding(connections: Sequence[OpenConnection], count: int) -> list[OpenConnection]:
    """Choose connections to close: the oldest ones of the addresses that have most of them.

    Args:
        connections: the oldest first.
        count: the number of connections to close.
    """
    newer: Counter[str] = Counter()
    ranked = []
    for connection in reversed(connections):
        ranked.append((newer[connection.address], connection))
        newer[connection.address] += 1
    return [connection for _, connection in heapq.nlargest(count, ranked, key=lambda entry: entry[0])]


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """A descriptor of libzmq as a socket object, which must not be closed here."""
    peer = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=fd)
    try:
        yield peer
    finally:
        peer.detach()


def _received(connection: OpenConnection) -> int:
    """Return the number of bytes that have arrived on a connection; 0 if the system does not report it."""
    option = getattr(socket, "TCP_INFO", None)
    with contextlib.suppress(OSError, struct.error), _borrowed(connection.fd) as peer:
        if option is not None:
            info = peer.getsockopt(socket.IPPROTO_TCP, option, RECEIVED_OFFSET + 8)
            return int(struct.unpack_from("=Q", info, RECEIVED_OFFSET)[0])
    return 0
