"""`oatmill eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import JsonOption, LogLevel, LogLevelOption, print_json


def evaluate(
    *,
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A step-N folder of a run's checkpoints, or a run's folder.")
    ],
    episodes: Annotated[int, typer.Option("--episodes", metavar="N", min=1, help="Episodes to play.")] = 100,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Take the likeliest action, draw none.")] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Of environment and actions.")] = 0,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="A video of one more episode: .mp4 or .gif (needs oatmill[video])."),
    ] = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.info,  # noqa: ARG001  (its callback acts)
) -> None:
    """Play episodes with a checkpoint's policy.

    The environment is the one that it was trained in.
    """
    from deploy.cli.summary import evaluation_lines  # noqa: PLC0415
    from recipes.evaluation import evaluate_checkpoint  # noqa: PLC0415

    result = evaluate_checkpoint(checkpoint, episodes=episodes, deterministic=deterministic, seed=seed, record=record)
    if as_json:
        print_json(result.to_dict())
        return
    for line in evaluation_lines(result):
        typer.echo(line)
    if result.recording is not None:
        video = result.recording
        typer.echo(f"video           {video.path}: {video.frames} frames, return {video.episode_return:.2f}")
