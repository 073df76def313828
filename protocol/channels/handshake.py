"""Whether a server accepts a client's connection, and if not, why: from libzmq's handshake events, and a probe of the port.

libzmq facts (4.3.5): a client that is turned away for its key, or that meets another mechanism, is never connected again by
libzmq. It must be done here, or a process that was turned away once, while keys were being replaced, is lost for good. A server
that cannot read a client's first message, because the client believes in another server key, closes the connection without a
word. And a connection to a server of another kind, such as HTTP, stays open with no event at all.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket as sockets
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
EVENTS = FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
PATIENCE_S = 1.5
"""A client that was never let in says why after this long. A key that was added just now is trusted within 0.25 s."""
CLOSED = {errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED}
CLOSED_TIMES, AT_ONCE_S = 3, 1.0
"""So many connections that were closed so soon are no accident. A busy server closes them only after some seconds."""
AGAIN_S, AGAIN_MAX_S = 0.2, 5.0
PROBE_S = 0.5
PROBE_EVERY_S = 5.0
SIGNATURE = b"\xff"
"""The first byte of every ZeroMQ server, which it sends without being asked (ZMTP 3.1, RFC 37)."""
GREETING = SIGNATURE + bytes(7) + b"\x01\x7f\x03\x01"
"""Signature and version. A server answers them with its own, and the name of its mechanism at byte 12 to 31."""
MECHANISM = slice(12, 32)


class Handshake:
    """Watches one client's socket. Make it before the socket connects, and look often.

    Args:
        socket: the client's.
        address: where it connects to.
        keyed: whether it shows a key.

    Attributes:
        up: whether the server has ever let it in. From then on a failed handshake ends nothing: keys may be in the making.
        failure: what the last attempt to connect came to, in words; empty if it succeeded or goes on.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str, *, keyed: bool) -> None:
        self._socket, self._address, self._keyed = socket, address, keyed
        self._monitor: Any = socket.get_monitor_socket(EVENTS)
        self.up = False
        self.failure = ""
        self._refused_since: float | None = None
        self._connected_at: float | None = None
        self._closed: list[float] = []
        self._pause, self._again_at = AGAIN_S, float("inf")
        self._probe_at = 0.0

    def look(self, now: float) -> None:
        """Read the connection's events, and reconnect where libzmq does not. Never blocks."""
        with contextlib.suppress(zmq.Again):
            while True:
                told = recv_monitor_message(self._monitor, zmq.NOBLOCK)
                self._take(told["event"], told["value"], now)
        if now >= self._again_at:
            self._again_at = float("inf")
            with contextlib.suppress(zmq.ZMQError):  # libzmq has forgotten it already
                self._socket.disconnect(self._address)
            self._socket.connect(self._address)

    def _take(self, event: int, value: int, now: float) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.up, self.failure, self._pause = True, "", AGAIN_S
            self._refused_since = self._connected_at = None
            self._closed.clear()
        elif event == zmq.EVENT_CONNECTED:
            self._connected_at = now
            self.failure = self.failure if self._refused_since else ""
        elif event == zmq.EVENT_CLOSED and self._refused_since is None:  # an attempt that nobody accepted
            self.failure = f"nothing accepts connections at {self._address}"
        elif event & FAILED:
            self._take_failure(event, value, now)
        if event & (FAILED | zmq.EVENT_DISCONNECTED):
            self._connected_at = None

    def _take_failure(self, event: int, value: int, now: float) -> None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            if value in CLOSED and now - (self._connected_at or now) < AT_ONCE_S:
                self._closed.append(now)
            return
        self.failure = self._untrusted if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH else self._other_mechanism
        self._refused_since = self._refused_since or now
        self._again_at = now + self._pause * random.uniform(1, 1.5)
        self._pause = min(2 * self._pause, AGAIN_MAX_S)

    def trouble(self, now: float) -> str:
        """Why this client will never get in, in one line; empty if it has been in, or may still get in. May take a second."""
        if self.up:
            return ""
        if self._refused_since is not None:
            return self.failure if now - self._refused_since >= PATIENCE_S else ""
        waits = self._connected_at is not None and now - self._connected_at >= PATIENCE_S
        closed = len(self._closed) >= CLOSED_TIMES and now - self._closed[0] >= PATIENCE_S
        if (waits or closed) and now >= self._probe_at:
            self._probe_at = now + PROBE_EVERY_S
            return self._look_at_port(first_words(self._address), closed=not waits)
        return ""

    def _look_at_port(self, said: bytes, *, closed: bool) -> str:
        if said and not said.startswith(SIGNATURE):
            words = said.splitlines()[0][:40].decode(errors="replace")
            return (
                f"what listens at {self._address} is no oatmill server, it answers {words!r}; give the control address that "
                "`oatmill replay` tells"
            )
        mechanism = said[MECHANISM].rstrip(b"\0")
        if closed and mechanism == b"CURVE":
            self.failure = self._other_server if self._keyed else self._other_mechanism
            return self.failure
        if closed and mechanism == b"NULL" and self._keyed:
            self.failure = self._other_mechanism
            return self.failure
        return ""  # nobody is there yet behind a forwarder, or the server is busy or stopped

    @property
    def _untrusted(self) -> str:
        return (
            f"the server at {self._address} does not trust this process's key; give --keys (or OATMILL_KEYS) the keys of that "
            "run, or add this one to its folder `trusted`"
        )

    @property
    def _other_mechanism(self) -> str:
        if self._keyed:
            return (
                f"the server at {self._address} has no keys and this process has some; start the server with --keys, or this "
                "process without --keys and OATMILL_KEYS"
            )
        return (
            f"the server at {self._address} asks for a key and this process has none; give --keys (or OATMILL_KEYS) the "
            "folder that `oatmill keygen` has made for that run"
        )

    @property
    def _other_server(self) -> str:
        return (
            f"the server at {self._address} has another key than server.pub of this process's keys; give --keys (or "
            "OATMILL_KEYS) the keys of that run"
        )

    def close(self) -> None:
        """Stop watching, before the socket is closed."""
        self._socket.disable_monitor()
        self._monitor.close()


def first_words(address: str) -> bytes:
    """A server's first bytes after a connection, or else its answer to an HTTP request; empty if there are none.

    Args:
        address: `tcp://host:port` or `ipc://path`.
    """
    said = b""
    with contextlib.suppress(OSError, ValueError), _connected(address) as probe:
        with contextlib.suppress(TimeoutError):
            said = probe.recv(64)
        probe.sendall(GREETING if said.startswith(SIGNATURE) else b"GET / HTTP/1.0\r\n\r\n")
        while len(said) < MECHANISM.stop and (more := probe.recv(64)):
            said += more
    return said


def _connected(address: str) -> sockets.socket:
    scheme, _, rest = address.partition("://")
    if scheme == "tcp":
        host, _, port = rest.rpartition(":")
        return sockets.create_connection((host.strip("[]"), int(port)), PROBE_S)
    probe = sockets.socket(sockets.AF_UNIX)
    probe.settimeout(PROBE_S)
    try:
        probe.connect(rest)
    except OSError:
        probe.close()
        raise
    return probe
