"""`oatmill stop`."""

from __future__ import annotations

import time

import typer

from deploy.cli.options import HubOption, KeysOption, LogLevel, LogLevelOption, RunArgument, RunDirOption, one_folder

ENDS_WITHIN_S = 90.0
POLL_S = 0.1


def stop(
    run: RunArgument = None,
    *,
    run_dir: RunDirOption = None,
    address: HubOption = None,
    keys: KeysOption = None,
    log_level: LogLevelOption = LogLevel.info,  # noqa: ARG001  (its callback acts)
) -> None:
    """Stop a run in order: the learner finishes its step and saves a checkpoint, then all processes end."""
    from oatmill.errors import RunError  # noqa: PLC0415
    from runner.folder import find_run, is_held, keys_of, read_run  # noqa: PLC0415
    from runner.operator_client import operator_client  # noqa: PLC0415

    wanted = one_folder(run, run_dir)
    if wanted is None and address is not None:
        with operator_client(address, keys) as hub:
            if not hub.stop():
                raise RunError(f"no hub answers at {address}")
        typer.echo(f"sent a stop request to {address}")
        return
    folder = find_run(wanted)
    running = read_run(folder)
    with operator_client(running["control"], keys_of(running)) as hub:
        if not hub.stop():
            raise RunError(f"the replay server of {folder} does not answer; kill the supervisor by its pid from run.json")
    deadline = time.monotonic() + ENDS_WITHIN_S
    while is_held(folder):
        if time.monotonic() > deadline:
            raise RunError(f"{folder} has not ended {ENDS_WITHIN_S:g} s after the stop request; see `oatmill status`")
        time.sleep(POLL_S)
    typer.echo(f"{folder} has ended")
