"""A client's socket, driven by a state machine. All channels use it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from oatmill.errors import JoinRefusedError, NotLetInError, PeerLostError, WireError
from oatmill.process.awake_clock import AwakeClock
from protocol.channels.sockets import ClientSocket
from protocol.security.keys import ClientKeys
from protocol.wire.codec import Buffer, Frames, two_frames
from protocol.wire.deadlines import LOST_AFTER_S

_log = logging.getLogger("oatmill.protocol")

LOOK_EVERY_S = 0.2
"""How often a connection checks the state of its handshake."""
LONGEST_POLL_S = 0.25
"""The longest single poll. A longer wait consists of several polls, between which overdue questions
are repeated."""
HEADERS_ONLY_BYTES = 64 * 1024
"""The longest frame of a socket whose messages have no large payload."""


class Peer(Protocol):
    """A state machine of `protocol.peers`."""

    def receive(self, header: Buffer, payload: Buffer, now: float, /) -> None:
        """Handle one message."""

    def send(self, now: float) -> list[Frames]:
        """Messages to send now."""


class Connection:
    """A client's socket, driven by a peer.

    Args:
        address: the server's address.
        peer: the state machine that decides what is sent.
        max_message_bytes: a longer frame ends the connection; -1 for no limit.
        keys: the keys for this server; None for a server without keys.

    Attributes:
        trouble: the reason why the server will never accept this process, in one line; empty if it
            has accepted it or may still do so.
    """

    def __init__(self, address: str, peer: Peer, *, max_message_bytes: int = -1, keys: ClientKeys | None = None) -> None:
        self._socket = ClientSocket(address, max_message_bytes=max_message_bytes, keys=keys)
        self._peer, self._address = peer, address
        self._clock = AwakeClock()
        self._look_at = 0.0
        self.closed = False
        self.trouble = ""

    @property
    def handle(self) -> Any:
        """The ZeroMQ socket, for a poller."""
        return self._socket.handle

    def now(self) -> float:
        """The clock for the server's silence. Time in which this process was paused does not count."""
        return self._clock.now()

    def turn(self) -> None:
        """Handle the messages that have arrived, then send what is due. Never blocks.

        Raises:
            WireError: `weights_layout`. Any other bad message is logged and dropped, because the
                peer asks again.
        """
        now = self.now()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._socket.handshake.look(now)
        for frames in self._socket.receive():
            try:
                self._peer.receive(*two_frames(frames), now)
            except WireError as error:
                if error.reason == "weights_layout":
                    raise
                _log.warning("dropped a message from %s: %s", self._address, error)
        self._socket.send()
        if self._socket.idle:
            self._socket.send(self._peer.send(now))

    def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Repeat `turn` until `done`, `trouble` or the timeout; returns whether it is done."""
        deadline = self.now() + timeout_s
        self.turn()
        while not done():
            self.trouble = self._socket.handshake.trouble(self.now())
            left = deadline - self.now()  # after looking for trouble, which may take a second
            if self.trouble or left <= 0:
                return False
            self._socket.wait(min(left, LONGEST_POLL_S))
            self.turn()
        return True

    def close(self) -> None:
        """Close at once."""
        self.closed = True
        self._socket.close()

    def check(self, refusal: tuple[str, str] | None, who: str) -> None:
        """Raise an error if the server has rejected this process.

        Args:
            refusal: the server's answer, as (reason, detail); None if it has not rejected anything.
            who: the server's name in a message.

        Raises:
            JoinRefusedError: if there is a refusal.
            NotLetInError: if the server will never accept this process's connection.
        """
        if refusal is not None:
            reason, detail = refusal
            raise JoinRefusedError(f"{who} refused this process ({reason}): {detail}")
        if self.trouble:
            raise NotLetInError(self.trouble)

    def check_lost(self, lost: bool, who: str) -> None:  # noqa: FBT001 -- a guard, read as one
        """Raise PeerLostError if the server has not answered a question for too long."""
        if lost:
            silent = f"{who} has not answered for {LOST_AFTER_S:.0f} s"
            raise PeerLostError(f"{silent}{self.why}; see its log, and whether its process is running")

    @property
    def why(self) -> str:
        """The problem of the last attempt to connect, to append to `no answer`; empty if there was none."""
        failure = self._socket.handshake.failure
        return f": {failure}" if failure else ""
