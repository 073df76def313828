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
    """The connection of a learner rank to ingest.

    Args:
        address: `welcome.endpoints["batches"]`.
        welcome: the hub's answer to `join`; it has the incarnation, the session and the keys.
        rank: the number of this rank.
        world: the number of ranks; each gets `batch_size_total / world` trajectories of every
            batch.
        batch_size_total: the number of trajectories in a learner step over all ranks; must be
            `trainer.batch_size`.
        resumed_from: the policy version of the checkpoint that the learner resumes from; -1 without
            one. Data that was trained on under later versions is counted as rolled back.
        mark: the result of `log_mark` that is stored in that checkpoint; ingest compares it with
            its log.
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
        """Ask for the batch of a learner step. Only one request may be open. Never blocks."""
        self._peer.request(learner_step)
        self._connection.turn()

    def poll(self, timeout_s: float) -> Delivery | None:
        """Return the requested batch, or None if it does not arrive within `timeout_s`.

        Raises:
            JoinRefusedError: if ingest rejects this learner; the message has the reason.
            PeerLostError: if ingest has not answered for 60 s.
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
        """Whether ingest asks for a priority for each trajectory. Known once the first batch has arrived."""
        return self._peer.wants_priorities

    def consumed(self, batch_id: int, policy_version: int, priorities: Array | None = None) -> None:
        """Report that this batch and all earlier ones were trained on. Never blocks.

        Args:
            batch_id: `Batch.batch_id`.
            policy_version: the newest published version; actors learn of it with their next credit.
            priorities: `[B]`, finite and at least 0: how much can be learned from each row. Sent
                only if ingest asks for it.
        """
        self._peer.consumed(batch_id, policy_version, priorities)
        self._connection.turn()

    def log_mark(self, learner_step: int, timeout_s: float) -> dict[str, Any] | None:
        """Ask for the point in ingest's log up to which everything that all ranks have consumed is stored.

        Returns:
            {"id": the log's id, "cursor": the point, "digest": the digest of the log's state} for
            the checkpoint's manifest; None if no answer arrives in time.

        Raises:
            JoinRefusedError: if ingest rejects this learner; the message has the reason.
        """
        self._peer.ask_mark(learner_step)
        self._connection.until(lambda: self._peer.new_mark is not None or self._peer.refusal is not None, timeout_s)
        self._connection.check(self._peer.refusal, "ingest")
        return self._peer.new_mark

    def commit(self, cursor: int) -> None:
        """Report that a complete checkpoint contains everything before a mark's cursor. Never blocks."""
        self._peer.commit(cursor)
        self._connection.turn()

    def close(self) -> None:
        """Say goodbye and close.

        Batches that were not consumed return to the front of the queue. Safe to call twice.
        """
        if self._connection.closed:
            return
        self._peer.leave()
        self._connection.until(lambda: self._peer.said_goodbye, GOODBYE_WITHIN_S)
        self._connection.close()
