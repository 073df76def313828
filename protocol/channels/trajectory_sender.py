"""The channel from an actor to ingest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from protocol.channels.connection import HEADERS_ONLY_BYTES, Connection
from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import Schema, TrajectoryBlock
from protocol.peers.control import Welcome
from protocol.peers.trajectory import TrajectorySenderPeer, WhenFull
from protocol.wire.deadlines import GOODBYE_WITHIN_S

Compression = Literal["auto", "lz4", "none"]


class TrajectorySender:
    """The connection of an actor to ingest.

    It sends trajectories when it has credit, and keeps them until they are acknowledged.

    Args:
        address: `welcome.endpoints["data"]`.
        welcome: the hub's answer to `join`; it has the actor id, incarnation, spaces, session and
            keys.
        schema: the run's schema, `Schema.of` the welcome's spaces.
        rows: the number of trajectories in each block.
        when_full: `block` keeps every block; `drop_oldest` drops the oldest unsent block when 16
            wait, and counts it.
        compression: `lz4`, `none`, or `auto`: lz4 over TCP if most of an observation is integers or booleans.
    """

    def __init__(
        self,
        address: str,
        *,
        welcome: Welcome,
        schema: Schema,
        rows: int,
        when_full: WhenFull,
        compression: Compression = "auto",
    ) -> None:
        assert welcome.spaces is not None, "an actor that has joined has described its spaces"
        self._peer = TrajectorySenderPeer(
            actor_id=welcome.actor_id,
            incarnation=welcome.incarnation,
            schema=RunSchema.of(welcome.spaces, schema),
            rows=rows,
            when_full=when_full,
            session=welcome.session,
            compress=compression == "lz4" or (compression == "auto" and address.startswith("tcp:") and schema.mostly_integers),
        )
        self._connection = Connection(address, self._peer, max_message_bytes=HEADERS_ONLY_BYTES, keys=welcome.keys)

    @property
    def produced(self) -> int:
        """The number of trajectories offered so far."""
        return self._peer.produced

    @property
    def evicted(self) -> int:
        """The number of trajectories dropped unsent so far."""
        return self._peer.evicted

    @property
    def newest_version(self) -> int:
        """The newest policy version that ingest has reported; -1 before the first one.

        Pass it to WeightsReceiver.poll.
        """
        return self._peer.newest_version

    @property
    def forgotten(self) -> int:
        """The number of trajectories that an earlier server acknowledged and the present one does not have."""
        return self._peer.forgotten

    @property
    def unacknowledged(self) -> int:
        """The number of trajectories that were offered, not dropped, and not acknowledged yet."""
        return self._peer.unacknowledged

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until one more block may be sent.

        Call it before an unroll, so that the unroll starts with new weights.

        With `drop_oldest`, the result is always True once ingest has answered. Wait in slices of at
        most a second, and send heartbeats between them.

        Raises:
            JoinRefusedError: if ingest has rejected this actor: it was replaced, has another
                schema, or sent three bad messages.
            PeerLostError: if ingest has not answered for 60 s.
        """
        return self._until(lambda: self._peer.ready, timeout_s)

    def offer(self, block: TrajectoryBlock) -> None:
        """Take a block.

        Its arrays are copied at once and may be reused. Never blocks. Errors as in `wait_ready`.

        Actor id, incarnation and sequence number are filled in here; `counters` has at most 64
        numbers.
        """
        self._peer.offer(block)
        self.pump()

    def greet(self) -> None:
        """Send HELLO again.

        Call it when the hub was replaced: ingest was replaced, too, and knows of no credit.
        """
        self._peer.greet()

    def pump(self) -> None:
        """Read acknowledgements and send what may be sent.

        Cheap; call it between env steps. Errors as in `wait_ready`.
        """
        self._connection.turn()
        self._check()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything offered is acknowledged; False after the timeout.

        Errors as in `wait_ready`.
        """
        return self._until(lambda: self._peer.unacknowledged == 0, timeout_s)

    def _until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        came = self._connection.until(lambda: self._peer.refusal is not None or done(), timeout_s)
        self._check()
        return came

    def _check(self) -> None:
        self._connection.check(self._peer.refusal, "ingest")
        self._connection.check_lost(self._peer.lost(self._connection.now()), "ingest")

    def close(self) -> None:
        """Say goodbye with the last counts and close. Safe to call twice.

        What is not acknowledged is counted as `unsent_at_death`.
        """
        if self._connection.closed:
            return
        if self._peer.welcomed and self._peer.refusal is None:
            self._peer.leave()
            self._connection.until(lambda: self._peer.said_goodbye or self._peer.refusal is not None, GOODBYE_WITHIN_S)
        self._connection.close()
