"""`oatmill eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.groups import OneCheckpoint
from deploy.cli.options import JsonOption, TrustOption, print_json


def evaluate(
    *,
    chosen: OneCheckpoint,
    episodes: Annotated[int, typer.Option("--episodes", metavar="N", min=1, help="Number of episodes.")] = 100,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Take the most likely action.")] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Seed of environment and actions.")] = 0,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Record one more episode as .mp4 or .gif (needs oatmill[video])."),
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play episodes with a checkpoint's policy, in the environment that it was trained in."""
    from agent.checkpoint_manifest import find_checkpoint  # noqa: PLC0415
    from deploy.cli.summary import evaluation_lines  # noqa: PLC0415
    from runner.evaluation.video import check_video  # noqa: PLC0415

    if record is not None:
        check_video(record)
    folder = chosen.folder
    find_checkpoint(folder)
    result = played_in_another_process(
        {
            "path": str(folder),
            "episodes": episodes,
            "deterministic": deterministic,
            "seed": seed,
            "record": None if record is None else str(record.absolute()),
            "trust": trust,
        }
    )
    if as_json:
        print_json(result)
        return
    for line in evaluation_lines(result):
        typer.echo(line)
    video = result["recording"]
    if video is not None:
        typer.echo(f"video           {record}: {video['frames']} frames, return {video['episode_return']:.2f}")


def played_in_another_process(options: dict[str, Any]) -> dict[str, Any]:
    """Play in a separate process, so that the environment cannot affect this command; returns the result.

    Raises:
        UserError: see `runner.evaluation.evaluation.evaluated`.
        RunError: see there, and if the process crashes.
    """
    from runner.user_code_process import UserCodeProcess  # noqa: PLC0415

    with UserCodeProcess("runner.evaluation.evaluate", options, what="the environment", shown=True, threads=None) as playing:
        result: dict[str, Any] = playing.result()
        for note in playing.finish():
            typer.echo(note, err=True)
        return result
