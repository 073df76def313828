"""Limits for the numbers that a process reports about itself.

An impossible number is rejected, so that one wrong message cannot make a run unusable.
"""

from __future__ import annotations

from oatmill.errors import WireError

MAX_COUNT = 2**48
"""The limit of any count of a process: more than any run reaches, and far below the limit of
integers."""
MAX_UNSENT = 2**24
"""The number of trajectories that an actor may have produced, not dropped and not sent."""
MAX_FORGOTTEN = 2**32
"""The number of trajectories of one actor that an earlier server may have acknowledged and lost
with its disk."""
MAX_VERSION = 2**41
"""The limit of a policy version if no other version is known to compare with."""
VERSION_STEP = 2**32
"""How far a learner may be ahead of the newest known version: it skips versions that it could not
publish."""


def check_counts(produced: int, evicted: int, stored: int) -> None:
    """Check that an actor can have produced and dropped this many trajectories.

    Args:
        produced: the number of produced trajectories that it reports.
        evicted: the number of dropped ones that it reports.
        stored: the number of stored ones that is known here.

    Raises:
        WireError: `header_fields`.
    """
    if evicted > produced:
        raise WireError("header_fields", f"expected evicted <= produced, got {evicted} and {produced}")
    if produced > MAX_COUNT or produced - evicted - stored > MAX_UNSENT:
        raise WireError(
            "header_fields",
            f"expected at most {MAX_UNSENT} trajectories in addition to {stored} stored ones, got {produced} produced",
        )


def check_acknowledged(acknowledged: int, produced: int, known: int, *, spoken: bool) -> None:
    """Check that an actor can have received acknowledgements for more than is known here.

    Args:
        acknowledged: the number of acknowledged trajectories that it reports.
        produced: the number of trajectories that it has produced and not dropped.
        known: the number that this server would acknowledge.
        spoken: whether this server has answered this session before; then it knows what it has
            acknowledged.

    Raises:
        WireError: `sequence`.
    """
    most = known if spoken else min(produced, known + MAX_FORGOTTEN)
    if acknowledged > max(most, known):
        raise WireError("sequence", f"expected at most {most} acknowledged trajectories, got {acknowledged}")


def check_version(version: int, newest: int) -> None:
    """Check that a learner can have reached a policy version.

    Args:
        version: the version that it reports.
        newest: the newest known version; -1 for none.

    Raises:
        WireError: `version_range`.
    """
    most = MAX_VERSION if newest < 0 else newest + VERSION_STEP
    if version > most:
        raise WireError("version_range", f"expected a policy version of at most {most}, got {version}")


def check_cursor(cursor: int | None, following: int) -> None:
    """Check that a learner can have received this point in the log.

    Args:
        cursor: the point that it reports; None for none.
        following: the number of the next record.

    Raises:
        WireError: `sequence`.
    """
    if cursor is not None and cursor > following:
        raise WireError("sequence", f"expected a cursor of at most {following}, got {cursor}")
