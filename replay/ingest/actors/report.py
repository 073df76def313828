"""Ingest's report about single actors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from replay.ingest.actors.credit import CreditLine, Holder
from replay.ingest.actors.session import ActorSession

MAX_ACTORS_REPORTED = 1000
"""At most this many actors are reported one by one. The fleet's statistics cover all actors."""
MAX_NAMED = 20
"""The number of slow and silent actors whose ids are sent to the learner."""


def actor_details(sessions: Iterable[ActorSession], now: float) -> dict[str, dict[str, Any]]:
    """Return details of at most MAX_ACTORS_REPORTED actors, by actor id.

    Args:
        sessions: one session for each actor.
        now: seconds of the monotonic clock.
    """
    return {
        str(session.actor_id): {
            "incarnation": session.incarnation,
            "produced": session.account.produced,
            "accepted": session.next,
            "evicted": session.account.evicted,
            "rejected": session.account.rejected,
            "credit": session.credit,
            "ended": session.ended,
            "block_seconds": session.pace.seconds,
            "slow": session.slow,
            "silent": session.silent,
            "credit_unused_seconds": now - session.since if session.credit else 0.0,
        }
        for session in islice(sessions, MAX_ACTORS_REPORTED)
    }


def uneven_actors(credit: CreditLine, now: float) -> dict[str, dict[str, float]]:
    """Return slow actors with their seconds per block, and silent actors with the seconds since their last block."""
    silent = [one for one in credit.silent if one.silent]
    return {
        "slow_actors": _named(credit.slow, lambda one: one.pace.seconds or 0.0),
        "silent_actors": _named(silent, lambda one: now - one.since),
    }


def _named(holders: Iterable[Holder], seconds: Callable[[ActorSession], float]) -> dict[str, float]:
    sessions = (holder for holder in islice(holders, MAX_NAMED) if isinstance(holder, ActorSession))
    return {str(session.actor_id): seconds(session) for session in sessions}
