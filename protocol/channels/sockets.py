"""ZeroMQ sockets with the options that this protocol needs; sending and receiving never block.

The options follow from the behaviour of libzmq 4.3.5:

- A socket that lingers hangs at exit when its peer is gone, and delivers nothing. So important
  messages are sent until they are acknowledged, and LINGER is 0.
- A DEALER without IMMEDIATE queues messages for peers that may never connect.
- A ROUTER drops messages to unknown peers silently, unless ROUTER_MANDATORY is set.
- ZMTP heartbeats end a connection on which a large message takes longer than their timeout, because
  only whole messages count as activity. So dead connections are ended by TCP_MAXRT, for which every
  acknowledged segment counts.
- zmq_ctx_term waits forever, once in some thousand times, if a peer disconnects while a ROUTER is
  closed. So every process has one context, and nobody terminates it.

All options are set before bind or connect. High-water marks are only a safeguard behind credit.
Reconnecting peers need random delays, which we add.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zmq

from oatmill.errors import UserError
from oatmill.process.descriptors import connections_of, descriptor_limit
from protocol.channels.connection_limits import FIRST_BYTES, ConnectionLimits
from protocol.channels.handshake import Handshake
from protocol.security.keys import ClientKeys
from protocol.security.users import ANYBODY, REVOKED, User
from protocol.security.zap import ZapHandler
from protocol.wire.codec import Frames

COPY_BELOW_BYTES = 64 * 1024
"""Smaller payloads are copied into libzmq's memory, which is cheaper than tracking them."""
HIGH_WATER = 256
"""The number of messages that may wait for a peer. Credit keeps far below it."""
HANDSHAKE_MS = 5_000
RECONNECT_MS, RECONNECT_MAX_MS = 100, 10_000
CONNECT_MS = 5_000
"""An attempt to connect is given up after this long and started again: the system would wait longer
and longer."""
UNACKNOWLEDGED_MS = 15_000
"""A connection on which the other host has acknowledged nothing for this long is given up: the
host, or a firewall in between, was probably replaced. The system would try for a quarter of an
hour."""
BACKLOG = 4096
SOCKETS_A_PROCESS = 2
"""The number of server sockets in a process, which share its descriptors."""
MAX_FRAMES = 16
"""The number of frames of a message that are kept. The rest is read and dropped: a good message has
two."""
CURVE_BYTES = 64
"""Encryption makes a frame longer, by 33 bytes. libzmq compares MAXMSGSIZE with the encrypted
length."""
SEND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
"""Computed once: combining enumeration members takes longer than sending a frame."""
WILDCARDS = ("0.0.0.0", "[::]", "*")
LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "*": "127.0.0.1"}


def _common(socket: zmq.Socket[bytes], max_message_bytes: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
    socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes if max_message_bytes < 0 else max_message_bytes + CURVE_BYTES)
    socket.setsockopt(zmq.TCP_MAXRT, UNACKNOWLEDGED_MS)


def use_keys(socket: zmq.Socket[bytes], keys: ClientKeys | None) -> None:
    """Set a client's socket to show its key and to accept only the server whose key it knows."""
    if keys is not None:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)


class ClientSocket:
    """A DEALER that connects. Sending never blocks: what cannot be sent now waits in an outbox.

    Args:
        address: the server's address.
        max_message_bytes: a longer frame ends the connection; -1 for no limit.
        keys: the keys for this server; None for a server without keys.

    Attributes:
        handshake: knows whether the server accepts this client.
    """

    def __init__(self, address: str, *, max_message_bytes: int = -1, keys: ClientKeys | None = None) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        _common(self._socket, max_message_bytes)
        use_keys(self._socket, keys)
        self._socket.setsockopt(zmq.IPV6, 1)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS + random.randrange(RECONNECT_MS))
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        self._outbox: deque[Frames] = deque()
        self.handshake = Handshake(self._socket, address, keyed=keys is not None)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise UserError(
                f"expected an address such as tcp://host:7302 or ipc:///path, got {address!r}: {error.strerror}"
            ) from None

    @property
    def idle(self) -> bool:
        """Whether everything was sent."""
        return not self._outbox

    @property
    def handle(self) -> zmq.Socket[bytes]:
        """The socket, for a poller."""
        return self._socket

    def send(self, messages: Iterable[Frames] = ()) -> None:
        """Send what waits, and then these messages, as far as possible without blocking."""
        self._outbox.extend(messages)
        try:
            while self._outbox:
                _send(self._socket, self._outbox[0])
                self._outbox.popleft()
        except zmq.Again:
            return

    def receive(self) -> Iterator[list[Any]]:
        """Return every message that has arrived, as frames. The frames of large payloads are not copied."""
        try:
            while True:
                yield [frame.buffer for frame in _receive(self._socket)]
        except zmq.Again:
            return

    def wait(self, timeout_s: float) -> None:
        """Wait until a message has arrived, or what waits in the outbox can be sent, or the timeout."""
        events = zmq.POLLIN | zmq.POLLOUT if self._outbox else zmq.POLLIN
        self._socket.poll(max(0, round(timeout_s * 1000)), events)

    def close(self) -> None:
        """Close at once."""
        if not self._socket.closed:
            self.handshake.close()
            self._socket.close()


class ServerSocket:
    """A ROUTER that binds. A message to a peer that is gone or too slow is dropped: the peer asks again.

    Args:
        context: the process's ZeroMQ context.
        max_message_bytes: a longer frame ends its sender's connection; -1 for no limit.
        zap: decides who may connect; None accepts everybody.
        first_bytes: the number of bytes that a connection may send before its first message is
            whole and, until `allow` is called, between two messages.

    Attributes:
        dropped: the number of messages that were dropped.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        max_message_bytes: int = -1,
        zap: ZapHandler | None = None,
        first_bytes: int = FIRST_BYTES,
    ) -> None:
        self._socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._zap = zap
        self._first_bytes = first_bytes
        self._connections: ConnectionLimits | None = None
        self._most = connections_of(descriptor_limit(), SOCKETS_A_PROCESS)
        self._told: Counter[str] = Counter()
        _common(self._socket, max_message_bytes)
        if zap is not None:
            zap.secure(self._socket)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.BACKLOG, min(BACKLOG, max(1, self._most // 4)))
        self._file: Path | None = None  # the file of an ipc address
        self.dropped = 0

    @property
    def handle(self) -> zmq.Socket[bytes]:
        """The socket, for a poller."""
        return self._socket

    def bind(self, address: str) -> str:
        """Bind, and return the address that peers connect to (with the chosen port for port 0).

        From then on, the connections of a TCP socket are watched. An ipc socket is in a folder that
        only its user can enter.

        Raises:
            UserError: if the address is taken or cannot be bound.
        """
        if address.startswith("tcp:"):
            self._connections = ConnectionLimits(self._socket, most=self._most, first_bytes=self._first_bytes)
        _bind(self._socket, address)
        scheme, _, path = address.partition("://")
        self._file = Path(path) if scheme == "ipc" else None
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def restore_file(self) -> Path | None:
        """Listen again at an ipc address whose file was removed, because nobody could connect any more.

        Existing connections stay. The old listener stays, too, although it is unreachable:
        unbinding it would remove the new file.

        Returns:
            The file that was created again; None if it was not missing, or cannot be created.
        """
        file = self._file
        if file is None or file.exists() or not _make_private(file.parent):
            return None
        try:
            self._socket.bind(f"ipc://{file}")
        except zmq.ZMQError:
            return None
        return file

    def allow(self, nbytes: int) -> None:
        """Set how many bytes a connection may send between two of its messages."""
        if self._connections is not None:
            self._connections.allowed_bytes = max(nbytes, self._first_bytes)

    def cut(self) -> Counter[str]:
        """Return how many connections were closed for using too much since the last call, by reason."""
        if self._connections is None:
            return Counter()
        cut = Counter(self._connections.cut)
        new, self._told = cut - self._told, cut
        return new

    def send(self, route: bytes, message: Frames) -> bool:
        """Send a message, or drop and count it; False if the connection is gone."""
        try:
            self._socket.send(route, SEND_MORE)
            _send(self._socket, message)
        except zmq.ZMQError as error:  # gone (EHOSTUNREACH) or too slow (EAGAIN)
            self.dropped += 1
            return error.errno == zmq.EAGAIN
        return True

    def receive(self, limit: int) -> Iterator[tuple[bytes, User, list[Any]]]:
        """Return at most `limit` messages: the sender's route, the owner of its key, and the frames."""
        connections = self._connections
        if connections is not None:
            connections.turns += 1
        try:
            for _ in range(limit):
                route, *frames = _receive(self._socket)
                if connections is not None:
                    _note(connections, route)
                yield route.bytes, self._user_of(route), [frame.buffer for frame in frames]
        except zmq.Again:
            return

    def _user_of(self, frame: zmq.Frame) -> User:
        if self._zap is None:
            return ANYBODY
        try:
            return self._zap.trusted.user(str(frame.get("User-Id")))
        except zmq.ZMQError:  # no key; the handler does not allow that
            return REVOKED

    def close(self) -> None:
        """Close at once, and remove the file of an ipc socket."""
        if self._connections is not None:
            self._connections.close()
        self._socket.close()


def check_free(address: str) -> None:
    """Raise a UserError if a TCP address is taken or cannot be bound, as `ServerSocket.bind` does."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as probe:
        _bind(probe, address)


def reachable(url: str, known: str) -> str:
    """Return an address that a client can use.

    A server that listens on all addresses does not report a host.

    Args:
        url: the address that the server reports, such as `tcp://0.0.0.0:7300`.
        known: an address at which the same server was reached.
    """
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme != "tcp" or host not in WILDCARDS:
        return url
    return f"tcp://{known.partition('://')[2].rpartition(':')[0]}:{port}"


def reachable_here(url: str) -> str:
    """Return a bound address in a form that a client on the same machine can use."""
    host = url.removeprefix("tcp://").rpartition(":")[0]
    return url.replace(host, LOOPBACK[host], 1) if url.startswith("tcp://") and host in LOOPBACK else url


def _bind(socket: zmq.Socket[bytes], address: str) -> None:
    socket.setsockopt(zmq.IPV6, int("[" in address))  # otherwise 127.0.0.1 is reported as [::ffff:127.0.0.1]
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise UserError(
            f"cannot listen on {address}: {zmq.strerror(error.errno or 0)}; choose another --listen address"
        ) from None


def _make_private(folder: Path) -> bool:
    """Create a folder if it is missing; returns whether only this user can enter it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _send(socket: zmq.Socket[bytes], message: Frames) -> None:
    """Send both frames, or raise zmq.Again and send none."""
    header, payload = message
    socket.send(header, SEND_MORE)
    socket.send(payload, zmq.NOBLOCK, copy=len(payload) < COPY_BELOW_BYTES)


def _note(connections: ConnectionLimits, route: zmq.Frame) -> None:
    """Note which connection a message came from."""
    with contextlib.suppress(zmq.ZMQError):  # a peer with an old ZeroMQ protocol, not one of our clients
        connections.recent.add(int(route.get(zmq.SRCFD)))


def _receive(socket: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """Return the frames of the next message, or raise zmq.Again. Faster than `recv_multipart`."""
    frames = [socket.recv(zmq.NOBLOCK, copy=False)]
    more = frames[0].more
    while more:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        more = frame.more
        if len(frames) <= MAX_FRAMES:
            frames.append(frame)
    return frames
