"""The command line application with all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.cli import (
    actor,
    chaos,
    cluster,
    compare,
    doctor,
    evaluate,
    health,
    keygen,
    learner,
    plan,
    plot,
    recipes,
    replay,
    scale,
    settings,
    status,
    stop,
    top,
    train,
)

app = typer.Typer(
    name="oatmill",
    help="Train a policy with PPO, CMPO, a learned model and Muesli on many actors, and see the magnitude of every loss.",
    rich_markup_mode=None,
    add_completion=False,
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


@app.callback()
def root(
    *,
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Train a policy with PPO, CMPO, a learned model and Muesli on many actors, and see the magnitude of every loss."""


app.command("train")(train.train)
app.command("plan")(plan.plan)
app.command("recipes")(recipes.recipes)
app.command("settings")(settings.settings)
app.command("status")(status.status)
app.command("top")(top.top)
app.command("scale")(scale.scale)
app.command("stop")(stop.stop)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("doctor")(doctor.doctor)
app.command("plot")(plot.plot)
app.command("chaos")(chaos.chaos)
app.command("keygen")(keygen.keygen)
app.command("replay")(replay.replay)
app.command("actor")(actor.actor)
app.command("learner")(learner.learner)
app.command("health")(health.health)
app.add_typer(cluster.app, name="cluster")
