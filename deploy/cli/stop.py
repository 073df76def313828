"""`oatmill stop`."""

from __future__ import annotations

import time

import typer

from deploy.cli.groups import ActiveRun

ENDS_WITHIN_S = 90.0
POLL_S = 0.1


def stop(*, run: ActiveRun) -> None:
    """Stop a run gracefully: the learner finishes its step and saves a checkpoint, then all processes end."""
    from oatmill.errors import RunError  # noqa: PLC0415
    from runner.folder import is_held  # noqa: PLC0415

    hub = run.hub()
    folder = hub.folder
    with hub.client() as client:
        stopped = client.stop()
    if folder is None:
        if not stopped:
            raise RunError(f"no hub answers at {hub.address}")
        typer.echo(f"sent a stop request to {hub.address}")
        return
    if not stopped:
        raise RunError(f"the replay server of {folder} does not answer; kill the supervisor by its pid from run.json")
    deadline = time.monotonic() + ENDS_WITHIN_S
    while is_held(folder):
        if time.monotonic() > deadline:
            raise RunError(f"{folder} has not ended {ENDS_WITHIN_S:g} s after the stop request; see `oatmill status`")
        time.sleep(POLL_S)
    typer.echo(f"{folder} has ended")
