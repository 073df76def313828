"""The channels for weights: the learner publishes to the hub, and actors pull from it."""

from __future__ import annotations

import time

from oatmill.errors import PeerLostError
from protocol.channels.connection import HEADERS_ONLY_BYTES, Connection
from protocol.data.weights import Layout, Weights
from protocol.peers.control import Welcome
from protocol.peers.weights import CHUNK_BYTES, PublisherPeer, ReceiverPeer
from protocol.security.keys import ClientKeys


class WeightsReceiver:
    """The connection over which an actor pulls weights from the hub.

    Args:
        address: `welcome.endpoints["weights"]`.
        layout: the network's layout; weights that do not fit it are rejected.
        keys: `welcome.keys`.
    """

    def __init__(self, address: str, *, layout: Layout, keys: ClientKeys | None = None) -> None:
        self._peer = ReceiverPeer(layout)
        self._connection = Connection(address, self._peer, max_message_bytes=CHUNK_BYTES, keys=keys)

    def poll(self, newest_version: int, timeout_s: float = 0.0) -> Weights | None:
        """Return the newest weights if they are newer than those returned before, otherwise None.

        They are complete and verified. This starts or continues a pull if `newest_version` is newer
        than what this receiver has. With `timeout_s`, it waits that long for `newest_version` or a
        newer one. Credit arrives a few milliseconds before the version that it announces. So an
        actor that waits about 0.2 s here before an unroll acts with a version that is newer by one.

        Raises:
            JoinRefusedError: if the hub does not accept this process's connection.
            WireError: `weights_layout` if the weights belong to another network.
        """
        self._peer.want(newest_version)
        self._connection.until(lambda: not self._peer.pulling, timeout_s)
        self._connection.check(None, "the hub")
        return self._peer.take()

    def pump(self, newest_version: int) -> None:
        """Continue a pull without waiting.

        `poll` returns what has arrived. Cheap; call it often between polls.

        On a slow link, a pull takes longer than the time between two polls, and the hub drops a
        version when nobody asks for the rest of it. Errors as in `poll`.
        """
        self._peer.want(newest_version)
        self._connection.turn()

    def wait(self, timeout_s: float) -> Weights:
        """Wait for any weights (the first ones).

        Raises:
            PeerLostError: if none arrived in time.
            JoinRefusedError, WireError: as in `poll`.
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
    """The connection over which rank 0 of the learner publishes weights to the hub.

    Args:
        address: `welcome.endpoints["weights"]`.
        welcome: the hub's answer to `join`; it has the session and the keys.
    """

    def __init__(self, address: str, *, welcome: Welcome) -> None:
        self._peer = PublisherPeer(welcome.session)
        self._connection = Connection(address, self._peer, max_message_bytes=HEADERS_ONLY_BYTES, keys=welcome.keys)

    def push(self, weights: Weights) -> None:
        """Send a version without waiting. A version that could not be sent yet is replaced by a newer one.

        Raises:
            JoinRefusedError: if the hub rejected an earlier version: it arrived damaged, or another
                learner has taken over.
        """
        self._peer.push(weights, time.time())
        self._connection.turn()
        self._connection.check(self._peer.refusal, "the hub")

    def push_again(self) -> None:
        """Send the newest version to a hub that was replaced. Errors as in `push`."""
        self._peer.push_again()
        self._connection.turn()
        self._connection.check(self._peer.refusal, "the hub")

    def flush(self, timeout_s: float) -> bool:
        """Wait until the hub has the last version pushed; False after the timeout. Errors as in `push`."""
        held = self._connection.until(lambda: self._peer.flushed or self._peer.refusal is not None, timeout_s)
        self._connection.check(self._peer.refusal, "the hub")
        return held

    def close(self) -> None:
        """Close. Call `flush` first if the last version matters. Safe to call twice."""
        self._connection.close()
