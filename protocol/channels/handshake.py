"""Finds out whether a server accepts a client's connection and, if not, why.

It uses libzmq's events, and a probe of the port. libzmq 4.3.5 does not reconnect a client that was
rejected for its key, or that uses another mechanism than the server. So this module reconnects it;
otherwise a process that was rejected once, while keys were being replaced, would be lost. If the
client has the wrong server key, the server cannot read its first message and closes the connection
without an answer. A connection to another kind of server, such as HTTP, stays open without any
event.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket as sockets
import struct
from typing import Any

import zmq

FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
EVENTS = FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
EVENT = struct.Struct("=hi")
"""The first frame of an event: its number and its value (zmq_socket_monitor(3)). `zmq.utils.monitor` reads it, too, but loads
asyncio, and every process of a run starts with this module."""
PATIENCE_S = 1.5
"""A client that was never accepted reports the reason after this long. A key that was just added is
trusted within 0.25 s."""
CLOSED = {errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED}
CLOSED_TIMES, AT_ONCE_S = 3, 1.0
"""This many connections that were closed within this time are not a coincidence: a busy server
closes connections only after some seconds."""
AGAIN_S, AGAIN_MAX_S = 0.2, 5.0
PROBE_S = 0.5
PROBE_EVERY_S = 5.0
SIGNATURE = b"\xff"
"""The first byte that every ZeroMQ server sends, without being asked (ZMTP 3.1, RFC 37)."""
GREETING = SIGNATURE + bytes(7) + b"\x01\x7f\x03\x01"
"""Signature and version. A server answers with its own, and with the name of its mechanism in bytes
12 to 31."""
MECHANISM = slice(12, 32)


class Handshake:
    """Watches the socket of one client. Create it before the socket connects, and call `look` often.

    Args:
        socket: the client's socket.
        address: the address that it connects to.
        keyed: whether it has a key.

    Attributes:
        up: whether the server has ever accepted it. After that, a failed handshake is not final:
            keys may be changing.
        failure: why the last attempt to connect failed, as text; empty if it succeeded or is still
            going on.
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
        """Read the connection's events, and reconnect when libzmq does not. Never blocks."""
        with contextlib.suppress(zmq.Again):
            while True:
                event, value = EVENT.unpack(self._monitor.recv_multipart(zmq.NOBLOCK)[0])
                self._take(event, value, now)
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
        elif event == zmq.EVENT_CLOSED and self._refused_since is None:  # nobody accepted the connection
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
        """The reason why this client will never be accepted, in one line. May take a second.

        It is empty if the client was accepted before, or may still be accepted.
        """
        if self.up:
            return ""
        if self._refused_since is not None:
            return self.failure if now - self._refused_since >= PATIENCE_S else ""
        waits = self._connected_at is not None and now - self._connected_at >= PATIENCE_S
        closed = len(self._closed) >= CLOSED_TIMES and now - self._closed[0] >= PATIENCE_S
        if (waits or closed) and now >= self._probe_at:
            self._probe_at = now + PROBE_EVERY_S
            return self._look_at_port(first_bytes(self._address), closed=not waits)
        return ""

    def _look_at_port(self, said: bytes, *, closed: bool) -> str:
        if said and not said.startswith(SIGNATURE):
            words = said.splitlines()[0][:40].decode(errors="replace")
            return (
                f"the server at {self._address} is not an oatmill server, it answers {words!r}; give the control address that "
                "`oatmill replay` prints"
            )
        mechanism = said[MECHANISM].rstrip(b"\0")
        if closed and mechanism == b"CURVE":
            self.failure = self._other_server if self._keyed else self._other_mechanism
            return self.failure
        if closed and mechanism == b"NULL" and self._keyed:
            self.failure = self._other_mechanism
            return self.failure
        return ""  # a forwarder whose server is not there yet, or a server that is busy or stopped

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
            f"the server at {self._address} requires a key and this process has none; set --keys (or OATMILL_KEYS) to the "
            "folder that `oatmill keygen` created for that run"
        )

    @property
    def _other_server(self) -> str:
        return (
            f"the server at {self._address} has another key than server.pub of this process's keys; give --keys (or "
            "OATMILL_KEYS) the keys of that run"
        )

    def close(self) -> None:
        """Stop watching. Call it before the socket is closed."""
        self._socket.disable_monitor()
        self._monitor.close()


def first_bytes(address: str) -> bytes:
    """Return a server's first bytes, or its answer to an HTTP request; empty if it sends nothing.

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
