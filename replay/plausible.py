"""What one process says of itself is believed only as far as it can be true: no role can end a run for good by one number."""

from __future__ import annotations

from oatmill.errors import WireError

MAX_COUNT = 2**48
"""Of anything that a process has counted: more than any run comes to, and far from where numbers end."""
MAX_UNSENT = 2**24
"""Trajectories that an actor may hold: it has produced them, not dropped them, and they are not stored."""
MAX_FORGOTTEN = 2**32
"""Trajectories of one actor that a server may have acknowledged and forgotten with its disk."""
MAX_VERSION = 2**41
"""Of a policy version that nobody can vouch for."""
VERSION_STEP = 2**32
"""How far a learner may be ahead of the newest version that is known: it skips some that it could not publish."""


def check_counts(produced: int, evicted: int, stored: int) -> None:
    """Whether an actor can have produced and dropped this much.

    Args:
        produced: trajectories, as it says.
        evicted: of these, what it has dropped.
        stored: of these, what is known to be stored.

    Raises:
        WireError: `header_fields`.
    """
    if evicted > produced:
        raise WireError("header_fields", f"expected evicted <= produced, got {evicted} and {produced}")
    if produced > MAX_COUNT or produced - evicted - stored > MAX_UNSENT:
        raise WireError(
            "header_fields", f"expected at most {MAX_UNSENT} trajectories besides the {stored} stored, got {produced} produced"
        )


def check_acknowledged(acknowledged: int, produced: int, known: int, *, spoken: bool) -> None:
    """Whether an actor can have been acknowledged more than is known here.

    Args:
        acknowledged: trajectories, as it says.
        produced: what it has produced and not dropped.
        known: the number that this server would acknowledge.
        spoken: whether this server has talked to the session before: then it knows what it has acknowledged.

    Raises:
        WireError: `sequence`.
    """
    most = known if spoken else min(produced, known + MAX_FORGOTTEN)
    if acknowledged > max(most, known):
        raise WireError("sequence", f"expected at most {most} acknowledged trajectories, got {acknowledged}")


def check_version(version: int, newest: int) -> None:
    """Check that a learner can have reached a policy version.

    Args:
        version: as it says.
        newest: the newest that is known; -1 if none is.

    Raises:
        WireError: `version_range`.
    """
    most = MAX_VERSION if newest < 0 else newest + VERSION_STEP
    if version > most:
        raise WireError("version_range", f"expected a policy version of at most {most}, got {version}")


def check_cursor(cursor: int | None, following: int) -> None:
    """Whether a learner can have been given a point in the log.

    Args:
        cursor: as it says; None if it says none.
        following: the number of the record that follows.

    Raises:
        WireError: `sequence`.
    """
    if cursor is not None and cursor > following:
        raise WireError("sequence", f"expected a cursor of at most {following}, got {cursor}")
