"""One socket driven by one state machine: what all channels have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from protocol.awake import AwakeClock
from protocol.codec import Buffer, Frames, two_frames
from protocol.errors import JoinRefusedError, PeerLostError, WireError
from protocol.keys import ClientKeys
from protocol.sockets import ClientSocket
from protocol.timing import LOST_AFTER_S

_log = logging.getLogger("oatmill.protocol")

LONGEST_POLL_S = 0.25
"""A wait is cut into polls of this length, between which overdue questions are put again."""
HEADERS_ONLY_BYTES = 64 * 1024
"""The longest frame from a server that sends no payloads."""


class Peer(Protocol):
    """A state machine of `protocol.*_peer`."""

    def receive(self, header: Buffer, payload: Buffer, now: float, /) -> None:
        """Take in one message."""

    def send(self, now: float) -> list[Frames]:
        """What is to be sent now."""


class Line:
    """One socket driven by one peer.

    Args:
        address: where the server is bound.
        peer: decides what is sent.
        max_message_bytes: a frame longer than this ends the connection; -1 for no limit.
        keys: what the server asks for; None for a server without keys.
    """

    def __init__(self, address: str, peer: Peer, *, max_message_bytes: int = -1, keys: ClientKeys | None = None) -> None:
        self._socket = ClientSocket(address, max_message_bytes=max_message_bytes, keys=keys)
        self._peer, self._address = peer, address
        self._clock = AwakeClock()
        self.closed = False

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
        """Turn until `done` or the time is out; whether it is done."""
        deadline = self.now() + timeout_s
        self.turn()
        while not done():
            left = deadline - self.now()
            if left <= 0:
                return False
            self._socket.wait(min(left, LONGEST_POLL_S))
            self.turn()
        return True

    def close(self) -> None:
        """Close at once."""
        self.closed = True
        self._socket.close()


def raise_if_refused(refusal: tuple[str, str] | None, who: str) -> None:
    """Raise JoinRefusedError if a server has turned this process away."""
    if refusal is not None:
        reason, detail = refusal
        raise JoinRefusedError(f"{who} refused this process ({reason}): {detail}")


def raise_if_lost(lost: bool, who: str) -> None:  # noqa: FBT001 -- a guard, read as one
    """Raise PeerLostError if a server has left a question unanswered for too long."""
    if lost:
        raise PeerLostError(f"{who} has not answered for {LOST_AFTER_S:.0f} s; see its log, and whether its process lives")
