"""One socket driven by one state machine. All channels use it."""

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
"""A wait consists of polls of this length. Overdue questions are repeated between them."""
HEADERS_ONLY_BYTES = 64 * 1024
"""The longest frame from a server that sends no payloads."""


class Peer(Protocol):
    """A state machine of `protocol.peers`."""

    def receive(self, header: Buffer, payload: Buffer, now: float, /) -> None:
        """Handle one message."""

    def send(self, now: float) -> list[Frames]:
        """Messages to send now."""


class Connection:
    """One socket driven by one peer.

    Args:
        address: address of the server.
        peer: decides what is sent.
        max_message_bytes: a frame longer than this ends the connection; -1 for no limit.
        keys: the keys for this server; None for a server without keys.

    Attributes:
        trouble: the reason why the server will never accept this process, in one line; empty if it has or still may.
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
        """The time by which the peer measures the server's silence: a process that was asleep blames nobody."""
        return self._clock.now()

    def turn(self) -> None:
        """Take in what has come, then send what may be sent. Never blocks.

        Raises:
            WireError: `weights_layout`; any other bad message is logged and dropped, for the peer will ask again.
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
        """Turn until `done`, or there is `trouble`, or the time is out; whether it is done."""
        deadline = self.now() + timeout_s
        self.turn()
        while not done():
            self.trouble = self._socket.handshake.trouble(self.now())
            left = deadline - self.now()  # after the look at the port, which may take a second
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
        """Raise JoinRefusedError if the server has turned this process away, and NotLetInError if it will never let it in.

        Args:
            refusal: the server's answer, as (reason, detail).
            who: the server's name in a message.
        """
        if refusal is not None:
            reason, detail = refusal
            raise JoinRefusedError(f"{who} refused this process ({reason}): {detail}")
        if self.trouble:
            raise NotLetInError(self.trouble)

    def check_lost(self, lost: bool, who: str) -> None:  # noqa: FBT001 -- a guard, read as one
        """Raise PeerLostError if the server has left a question unanswered for too long."""
        if lost:
            silent = f"{who} has not answered for {LOST_AFTER_S:.0f} s"
            raise PeerLostError(f"{silent}{self.why}; see its log, and whether its process lives")

    @property
    def why(self) -> str:
        """What the last attempt to connect came to, to be put behind `no answer`; empty if nothing is wrong with it."""
        failure = self._socket.handshake.failure
        return f": {failure}" if failure else ""
