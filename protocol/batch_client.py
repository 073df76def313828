"""The channel between a learner rank and ingest."""

from __future__ import annotations

import secrets
import time

from protocol.batch_peer import BatchPeer, Delivery
from protocol.line import Line, raise_if_lost, raise_if_refused
from protocol.timing import GOODBYE_WITHIN_S


class BatchClient:
    """A learner rank's line to ingest.

    Args:
        address: `welcome.endpoints["batches"]`.
        rank: this rank.
        world: the number of ranks; each gets `batch_size_total / world` trajectories of every batch.
        batch_size_total: trajectories of one learner step over all ranks; must be trainer.batch_size.
    """

    def __init__(self, address: str, *, rank: int, world: int, batch_size_total: int) -> None:
        self._peer = BatchPeer(rank=rank, world=world, batch_size=batch_size_total, token=secrets.token_hex(16))
        self._line = Line(address, self._peer)

    def request(self, learner_step: int) -> None:
        """Ask for this step's batch; at most one request may be open. Never blocks."""
        self._peer.request(learner_step)
        self._line.turn()

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

        self._line.until(done, timeout_s)
        raise_if_refused(self._peer.refusal, "ingest")
        raise_if_lost(self._peer.lost(time.monotonic()), "ingest")
        return found[0] if found else None

    def consumed(self, batch_id: int, policy_version: int) -> None:
        """Say that this batch, and every one before it, has been trained on. Never blocks.

        Args:
            batch_id: `Batch.batch_id`.
            policy_version: the version just published, or the newest there is; actors are told of it with their next credit.
        """
        self._peer.consumed(batch_id, policy_version)
        self._line.turn()

    def close(self) -> None:
        """Say goodbye and close: what was handed out and not consumed returns to the queue's head. Safe to call twice."""
        if self._line.closed:
            return
        self._peer.leave()
        self._line.until(lambda: self._peer.said_goodbye, GOODBYE_WITHIN_S)
        self._line.close()
