"""The channel between a learner rank and ingest."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from protocol.channels.connection import Connection
from protocol.data.trajectory import Array
from protocol.peers.batch import BatchPeer, Delivery
from protocol.peers.control import Welcome
from protocol.wire.deadlines import GOODBYE_WITHIN_S


class BatchClient:
    """A learner rank's line to ingest.

    Args:
        address: `welcome.endpoints["batches"]`.
        rank: this rank.
        world: the number of ranks; each gets `batch_size_total / world` trajectories of every batch.
        batch_size_total: trajectories of one learner step over all ranks; must be trainer.batch_size.
        welcome: what the hub said; gives incarnation, session and keys.
        resumed_from: the policy version of the checkpoint that the learner goes on from; what was trained on under later ones
            is counted as rolled back. -1 without one.
        mark: what `snapshot` gave for that checkpoint: ingest compares it with its log.
    """

    def __init__(
        self,
        address: str,
        *,
        welcome: Welcome,
        rank: int,
        world: int,
        batch_size_total: int,
        resumed_from: int = -1,
        mark: Mapping[str, Any] | None = None,
    ) -> None:
        self._peer = BatchPeer(
            rank=rank,
            world=world,
            batch_size=batch_size_total,
            token=secrets.token_hex(16),
            incarnation=welcome.incarnation,
            resumed_from=resumed_from,
            session=welcome.session,
            shares=address.startswith("ipc:"),
            mark=mark,
        )
        self._connection = Connection(address, self._peer, keys=welcome.keys)

    def request(self, learner_step: int) -> None:
        """Ask for this step's batch; at most one request may be open. Never blocks."""
        self._peer.request(learner_step)
        self._connection.turn()

    def poll(self, timeout_s: float) -> Delivery | None:
        """The batch that was asked for, or None if it did not come within `timeout_s`.

        Raises:
            JoinRefusedError: if ingest refuses this learner, with its reason.
            PeerLostError: if ingest has been silent for 60 s in spite of being asked.
        """
        found: list[Delivery] = []

        def done() -> bool:
            delivery = self._peer.take()
            found.extend([] if delivery is None else [delivery])
            return bool(found) or self._peer.refusal is not None

        self._connection.until(done, timeout_s)
        self._connection.check(self._peer.refusal, "ingest")
        self._connection.check_lost(self._peer.lost(self._connection.now()), "ingest")
        return found[0] if found else None

    @property
    def wants_priorities(self) -> bool:
        """Whether ingest asks for a priority of each trajectory; known once the first batch has come."""
        return self._peer.wants_priorities

    def consumed(self, batch_id: int, policy_version: int, priorities: Array | None = None) -> None:
        """Say that this batch, and every one before it, has been trained on. Never blocks.

        Args:
            batch_id: `Batch.batch_id`.
            policy_version: the version just published, or the newest there is; actors are told of it with their next credit.
            priorities: `[B]`, finite and 0 or more: how much there is to learn from each row; sent if ingest asks for them.
        """
        self._peer.consumed(batch_id, policy_version, priorities)
        self._connection.turn()

    def snapshot(self, learner_step: int, timeout_s: float) -> dict[str, Any] | None:
        """Ask for a point in ingest's log that holds everything consumed so far, by all ranks.

        Returns:
            {"id": which log, "cursor": up to where, "digest": of what it comes to} for a checkpoint's manifest; None if no
            answer came in time.

        Raises:
            JoinRefusedError: if ingest refuses this learner, with its reason.
        """
        self._peer.ask_snapshot(learner_step)
        self._connection.until(lambda: self._peer.snapshot is not None or self._peer.refusal is not None, timeout_s)
        self._connection.check(self._peer.refusal, "ingest")
        return self._peer.snapshot

    def commit(self, cursor: int) -> None:
        """Say that a checkpoint that holds everything before a snapshot's cursor is whole. Never blocks."""
        self._peer.commit(cursor)
        self._connection.turn()

    def close(self) -> None:
        """Say goodbye and close: what was handed out and not consumed returns to the queue's head. Safe to call twice."""
        if self._connection.closed:
            return
        self._peer.leave()
        self._connection.until(lambda: self._peer.said_goodbye, GOODBYE_WITHIN_S)
        self._connection.close()
