"""A small ZAP handler (RFC 27) in a thread.

It accepts connections with trusted keys and refuses all others.

Two details of libzmq 4.3.5 and pyzmq matter here. A CURVE server without a handler accepts every
key, so sockets name a domain and enforce it. And pyzmq's own handler ends at its first exception,
after which all connections are refused. This one restarts, and the restarts are counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import zmq
from zmq.utils import z85

from protocol.security.keys import KEY_LENGTH, ServerKeys
from protocol.security.users import TrustedKeys

_log = logging.getLogger("oatmill.auth")

ADDRESS = "inproc://zeromq.zap.01"
DOMAIN = b"oatmill"
VERSION = b"1.0"
POLL_MS = 100
REFRESH_EVERY_S = 0.25
"""A change in the folder of trusted keys is noticed within this time."""
BACK_OFF_S = 0.05
BINDS_WITHIN_S = 5.0
FRAMES = 7  # of a CURVE request: version, request id, domain, address, routing id, mechanism, key


class ZapHandler:
    """Decides who may connect to the secured sockets of one context.

    Args:
        context: the context of the sockets; it has only one handler.
        keys: the server's keys.
        probe: public key of the start-up test, whose refusals are not counted.

    Attributes:
        keys: the server's keys.
        trusted: the keys that are accepted.
        denied: number of refused connections.
        restarts: number of restarts of the handler.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys, *, probe: bytes = b"") -> None:
        self.keys, self.trusted = keys, TrustedKeys(keys)
        self.denied = self._told = 0
        self.restarts = 0
        self._context, self._probe = context, probe.decode()
        self._closing = threading.Event()
        self._open = threading.Event()
        self._thread = self._started()
        self._open.wait(BINDS_WITHIN_S)

    def secure(self, socket: zmq.Socket[bytes]) -> None:
        """Secure a socket. Call it before the socket is bound."""
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.keys.secret)

    def look(self) -> int:
        """Restart the handler if its thread has ended. This is cheap: call it in the loop of the process.

        Returns:
            Number of connections refused since the last call.
        """
        if not self._thread.is_alive() and not self._closing.is_set():
            self.restarts += 1
            self._thread = self._started()
        new, self._told = self.denied - self._told, self.denied
        return new

    def close(self) -> None:
        """End the handler. Call it before the context is closed."""
        self._closing.set()
        self._thread.join()

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="zap", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._serve()
            except Exception:
                self.restarts += 1
                _log.exception("the handler of keys failed; restarting it")
                self._closing.wait(BACK_OFF_S)

    def _serve(self) -> None:
        """Answer requests on a socket of its own, until `close` is called."""
        with self._context.socket(zmq.REP) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            self._bind(socket)
            self._open.set()
            refreshed = time.monotonic()
            while not self._closing.is_set():
                if socket.poll(POLL_MS):
                    socket.send_multipart(self._answer(socket.recv_multipart()))
                if time.monotonic() - refreshed >= REFRESH_EVERY_S:
                    self.trusted.refresh()
                    refreshed = time.monotonic()

    def _bind(self, socket: zmq.Socket[bytes]) -> None:
        """Bind, after the previous handler's socket has released the address; libzmq needs a moment for that."""
        deadline = time.monotonic() + BINDS_WITHIN_S
        while True:
            try:
                socket.bind(ADDRESS)
            except zmq.ZMQError:
                if self._closing.wait(BACK_OFF_S) or time.monotonic() > deadline:
                    raise
            else:
                return

    def _answer(self, request: Sequence[bytes]) -> list[bytes]:
        request_id = request[1] if len(request) > 1 else b""
        public = self._key_of(request)
        if public is not None and self.trusted.trusts(public):
            return [VERSION, request_id, b"200", b"OK", public.encode(), b""]
        if public is None or public != self._probe:
            self.denied += 1
        return [VERSION, request_id, b"400", b"this key is not trusted", b"", b""]

    @staticmethod
    def _key_of(request: Sequence[bytes]) -> str | None:
        """The key in a request, in Z85; None if there is none."""
        if len(request) != FRAMES or request[0] != VERSION or request[2] != DOMAIN or request[5] != b"CURVE":
            return None
        key = request[6]
        return z85.encode(key).decode() if len(key) == KEY_LENGTH * 4 // 5 else None
