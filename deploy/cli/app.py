"""The command line application with all commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from deploy.cli import (
    actor,
    chaos,
    cluster,
    compare,
    doctor,
    evaluate,
    evaluator,
    export,
    health,
    join,
    keygen,
    learner,
    plan,
    plot,
    probe,
    push,
    recipes,
    replay,
    scale,
    settings,
    slurm,
    status,
    stop,
    sweep,
    top,
    train,
    usage,
)
from deploy.cli.examples import epilog
from deploy.cli.groups import with_groups

app = typer.Typer(
    name="oatmill",
    help="Train a policy with PPO, CMPO, a learned model and Muesli on many actors, and see the magnitude of every loss.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def show_version(value: bool) -> None:  # noqa: FBT001  (called by Typer)
    """Print the version and exit."""
    if value:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

        try:
            typer.echo(f"oatmill {version('oatmill')}")
        except PackageNotFoundError:
            typer.echo("oatmill (not installed)")
        raise typer.Exit


@app.callback(epilog=epilog(""))
def root(
    *,
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Train a policy with PPO, CMPO, a learned model and Muesli on many actors, and see the magnitude of every loss."""


COMMANDS: Mapping[str, Callable[..., None]] = {
    "train": train.train,
    "plan": plan.plan,
    "recipes": recipes.recipes,
    "settings": settings.settings,
    "status": status.status,
    "top": top.top,
    "scale": scale.scale,
    "stop": stop.stop,
    "eval": evaluate.evaluate,
    "export": export.export,
    "push": push.push,
    "compare": compare.compare,
    "sweep": sweep.sweep,
    "doctor": doctor.doctor,
    "probe": probe.probe,
    "plot": plot.plot,
    "chaos": chaos.chaos,
    "join": join.join,
    "slurm": slurm.slurm,
    "keygen": keygen.keygen,
    "replay": replay.replay,
    "actor": actor.actor,
    "learner": learner.learner,
    "evaluator": evaluator.evaluator,
    "health": health.health,
    "help": usage.help_,
}
for name, command in COMMANDS.items():
    app.command(name, epilog=epilog(name))(with_groups(command))
app.add_typer(cluster.app, name="cluster")
