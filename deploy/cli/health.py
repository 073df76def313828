"""`oatmill health`."""

from __future__ import annotations

from typing import Annotated

import typer


def health(
    *,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="replay, learner or actor.")],
) -> None:
    """Check whether this container's role makes progress.

    Exit code 0 if it does, 1 if not. Replay and learner are asked at 127.0.0.1:9464
    (OATMILL__METRICS__HOST and _PORT). An actor is checked by its heartbeat file, which
    OATMILL_HEARTBEAT names. `python -m deploy.health ROLE` does the same faster, for frequent
    probes.
    """
    import os  # noqa: PLC0415

    from deploy.health import ROLES, problem_of  # noqa: PLC0415
    from oatmill.errors import RunError, UserError  # noqa: PLC0415

    problem = problem_of(role, os.environ)
    if problem is not None:
        raise (RunError if role in ROLES else UserError)(problem)
    typer.echo("ok")
