"""Where every trajectory went: produced = trained + dropped + queued + in_flight + unsent_at_death + lost, at all times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from protocol.wire.reasons import REJECTED_REASONS


@dataclass
class Ledger:
    """Trajectories counted where they pass, in ingest. What an actor still holds is added by `balance`."""

    accepted: int = 0  # acknowledged, rejected ones included
    trained: int = 0  # in the line of the run that survives
    rolled_back: int = 0  # trained on by a learner that died, after the checkpoint from which the next one went on
    stale: int = 0
    rejected: int = 0
    replayed: int = 0  # trained on once more, out of the buffer; outside the sum
    forgotten: int = 0  # acknowledged by a server that has died with all that it knew of them: they are lost
    duplicate: int = 0  # came again and were dropped; outside the sum
    rejected_by: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REJECTED_REASONS, 0))  # messages by reason

    def balance(self, actors: ActorTotals, *, queued: int, handed_out: int) -> dict[str, Any]:
        """The ledger as it is printed at the end of every run.

        Args:
            actors: what the actors have reported.
            queued: trajectories that wait, cut or not.
            handed_out: trajectories that the learner has and has not trained on.

        Returns:
            The identity's columns; `lost` is what was acknowledged and is in no other column: 0 unless the server died.
        """
        gone = self.trained + self.rolled_back + self.stale + self.rejected + queued + handed_out
        return {
            "produced": actors.produced,
            "trained": self.trained,
            "dropped": {
                "stale": self.stale,
                "evicted": actors.evicted,
                "rejected": self.rejected,
                "rolled_back": self.rolled_back,
            },
            "queued": queued,
            "in_flight": handed_out + actors.on_the_way,
            "unsent_at_death": actors.unsent_at_death,
            "lost": self.accepted + self.forgotten - gone,
            "duplicate": self.duplicate,
            "replayed": self.replayed,
        }


@dataclass(frozen=True)
class ActorTotals:
    """Sums over all actors and incarnations, as last reported."""

    produced: int
    evicted: int
    on_the_way: int  # produced by actors that live, not dropped, not stored yet
    unsent_at_death: int  # the same of those that are gone
