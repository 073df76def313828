"""The values that `oatmill status` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replay.hub.member import Member
from replay.hub.members import Members, twin_of

MAX_ACTORS_SHOWN = 1000

EQUAL_STREAMS = (
    "began with the same observations in all their copies, although their seeds differ: the environment ignores the seed of "
    "reset, so they may play the same episodes; give the function of env.factory a parameter seed and pass it to the simulator"
)
"""The message about two actors whose environments began alike."""


def actors_of(members: Members, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return details of at most MAX_ACTORS_SHOWN actors, from their heartbeats and from ingest.

    Args:
        members: the members of the run.
        report: the last report of ingest.
    """
    stored: Mapping[str, Any] = report.get("actors", {})
    return [
        {
            **member.report,
            **stored.get(str(member.actor_id), {}),
            "actor_id": member.actor_id,
            "incarnation": member.incarnation,
            "alive": member.alive,
            "left": member.left,
            **_twin(members, member),
        }
        for member in members.actors[:MAX_ACTORS_SHOWN]
    ]


def _twin(members: Members, member: Member) -> dict[str, int]:
    twin = twin_of(member, members.actors)
    return {} if twin is None else {"began_like": twin.actor_id}


def status_of(members: Members, report: Mapping[str, Any], hub: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole status.

    Args:
        members: the members of the run.
        report: the last report of ingest.
        hub: the hub's own values.
    """
    fleet = dict(report.get("fleet", {}))
    learner = members.learner
    return {
        "ledger": fleet.pop("ledger", {}),
        "fleet": fleet,
        "actors": actors_of(members, report),
        "live": members.live,
        "expired": members.expired,
        "restarts": members.restarts,
        "learner": {} if learner is None else {**learner.report, "joined": True},
        "quarantine": report.get("quarantine", []),
        **hub,
    }
