"""The channels of the hub's weights: the learner that publishes and the actor that pulls."""

from __future__ import annotations

import time

from oatmill.errors import PeerLostError
from protocol.channels.connection import HEADERS_ONLY_BYTES, Connection
from protocol.data.weights import Layout, Weights
from protocol.peers.control import Welcome
from protocol.peers.weights import CHUNK_BYTES, PublisherPeer, ReceiverPeer
from protocol.security.keys import ClientKeys


class WeightsReceiver:
    """An actor's line to the hub's weights.

    Args:
        address: `welcome.endpoints["weights"]`.
        layout: the network's layout; weights that do not fit it are refused.
        keys: `welcome.keys`.
    """

    def __init__(self, address: str, *, layout: Layout, keys: ClientKeys | None = None) -> None:
        self._peer = ReceiverPeer(layout)
        self._connection = Connection(address, self._peer, max_message_bytes=CHUNK_BYTES, keys=keys)

    def poll(self, newest_version: int, timeout_s: float = 0.0) -> Weights | None:
        """The newest weights if they are newer than the last ones returned, whole and verified; else None.

        Starts or goes on with a pull when `newest_version` is newer than what this receiver has. With `timeout_s` it waits
        that long for `newest_version` (or newer) to be here. Credit arrives a few milliseconds before the version that it
        announces does, so an actor that waits 0.2 s or so here before an unroll acts one version fresher.

        Raises:
            JoinRefusedError: if the hub does not let this process's connection in.
            WireError: `weights_layout` if the weights are another network's.
        """
        self._peer.want(newest_version)
        self._connection.until(lambda: not self._peer.pulling, timeout_s)
        self._connection.check(None, "the hub")
        return self._peer.take()

    def pump(self, newest_version: int) -> None:
        """Go on with a pull without waiting; `poll` returns what has come. Cheap; call it wherever time passes between polls.

        On a slow link one pull takes longer than what lies between two polls, and the hub does not keep a version for ever of
        which nobody asks for the rest. Errors as `poll`.
        """
        self._peer.want(newest_version)
        self._connection.turn()

    def wait(self, timeout_s: float) -> Weights:
        """Wait for any weights at all (the first ones).

        Raises:
            PeerLostError: if none came in time.
            JoinRefusedError, WireError: as `poll`.
        """
        weights = self.poll(max(0, self._peer.version + 1), timeout_s)
        if weights is None:
            raise PeerLostError(
                f"no weights came within {timeout_s:g} s{self._connection.why}; has the learner started? See its log"
            )
        return weights

    def close(self) -> None:
        """Close. Safe to call twice."""
        self._connection.close()


class WeightsPublisher:
    """Learner rank 0's line to the hub's weights.

    Args:
        address: `welcome.endpoints["weights"]`.
        welcome: what the hub said; gives session and keys.
    """

    def __init__(self, address: str, *, welcome: Welcome) -> None:
        self._peer = PublisherPeer(welcome.session)
        self._connection = Connection(address, self._peer, max_message_bytes=HEADERS_ONLY_BYTES, keys=welcome.keys)

    def push(self, weights: Weights) -> None:
        """Hand one version to the I/O thread and return; a version that could not leave yet is replaced by a newer one.

        Raises:
            JoinRefusedError: if the hub refused an earlier version: its bytes were torn, or another learner has taken over.
        """
        self._peer.push(weights, time.time())
        self._connection.turn()
        self._connection.check(self._peer.refusal, "the hub")

    def push_again(self) -> None:
        """Hand the newest version to a hub that was replaced. Errors as `push`."""
        self._peer.push_again()
        self._connection.turn()
        self._connection.check(self._peer.refusal, "the hub")

    def flush(self, timeout_s: float) -> bool:
        """Wait until the hub holds the last version pushed; False if time ran out first. Errors as `push`."""
        held = self._connection.until(lambda: self._peer.flushed or self._peer.refusal is not None, timeout_s)
        self._connection.check(self._peer.refusal, "the hub")
        return held

    def close(self) -> None:
        """Close; call `flush` first if the last version matters. Safe to call twice."""
        self._connection.close()
