"""`oatmill cluster`: all roles and monitoring in containers, or a run on Ray."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.examples import epilog
from deploy.cli.groups import with_groups
from deploy.cli.options import (
    ActorsOption,
    Assignments,
    ConfigOption,
    JsonOption,
    LearnersOption,
    LogLevel,
    LogLevelOption,
    PresetOption,
    print_json,
)

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.engines.compose import ComposeCluster
    from runner.settings import RunSettings


class EngineName(StrEnum):
    """The engine of a cluster."""

    compose = "compose"
    ray = "ray"


NO_EVALUATOR = (
    "note: a run on Ray has no evaluator, although evaluator.enabled=true, so there is no eval_return and no checkpoints/best; "
    "start `oatmill evaluator --run-dir DIR` on the machine with the run folder"
)
OnOption = Annotated[EngineName, typer.Option("--on", help="The engine: containers on this machine, or a Ray cluster.")]
ProjectOption = Annotated[str, typer.Option("--project", metavar="NAME", help="The cluster's name.")]

app = typer.Typer(
    help="Run a cluster: replay, learner, actors, Prometheus, Alertmanager and Grafana in containers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def the_cluster(project: str) -> ComposeCluster:
    """The cluster with a name on this machine's container engine."""
    import os  # noqa: PLC0415

    from deploy.engines.compose import ComposeCluster  # noqa: PLC0415

    return ComposeCluster.of(project, os.environ)


def keys_from_environment() -> Path | None:
    """The folder that OATMILL_KEYS names; None without it."""
    import os  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    folder = os.environ.get("OATMILL_KEYS")
    return Path(folder) if folder else None


def run_on_ray(
    project: str, settings: RunSettings, name: str, *, insecure: bool, gpu: bool, image: str | None, log_level: LogLevel
) -> None:
    """Run on a Ray cluster until the run ends; this process is the driver."""
    from pathlib import Path  # noqa: PLC0415

    from deploy.engines.ray import RayRun, up  # noqa: PLC0415
    from oatmill.errors import UserError  # noqa: PLC0415

    if image is not None:
        raise UserError("--image is for containers; on Ray the nodes run the oatmill that is installed on them")
    wanted = RayRun(
        settings=settings,
        run_dir=Path("runs", name).absolute(),
        insecure=insecure,
        keys=keys_from_environment(),
        gpu=gpu,
        log_level=log_level.value,
    )
    up(project, wanted, say=typer.echo)
    typer.echo(f"{wanted.run_dir} has ended")


@app.command(epilog=epilog("cluster up"))
@with_groups
def up(
    *,
    recipe: Annotated[str, typer.Argument(metavar="[RECIPE]", help="A built-in recipe, or module:function.")] = "cogs_v_clips",
    assignments: Assignments = None,
    actors: ActorsOption = None,
    learners: LearnersOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="NAME", help="The run's name; an existing run is continued. Default: the recipe."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="IMAGE", help="The image for all roles; built from the sources if left out."),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give the learner this machine's GPUs.")] = False,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="SERVICE", help="Do not start a monitoring service, such as grafana."),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", min=0, help="Seconds to wait for a learner step.")] = 300,
    insecure: Annotated[bool, typer.Option("--insecure", help="On Ray: listen on the cluster's network without keys.")] = False,
    on: OnOption = EngineName.compose,
    project: ProjectOption = "oatmill",
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Start or update a cluster, and wait for its first learner step. On Ray, run until the run ends.

    The engine is Docker with Compose, or Podman; OATMILL_ENGINE names another command. Settings
    have the same order as for `oatmill train`.
    """
    from deploy.engines.start import Start, start  # noqa: PLC0415
    from recipes.resolve import resolve_run  # noqa: PLC0415

    flags = {"actors.count": actors, "trainer.learners": learners}
    settings = resolve_run(recipe, assignments, preset=preset, config=config, flags=flags).settings
    if on is EngineName.ray:
        if settings.evaluator.enabled:
            typer.echo(NO_EVALUATOR, err=True)
        run_on_ray(
            project, settings, run or recipe.replace(":", "-"), insecure=insecure, gpu=gpu, image=image, log_level=log_level
        )
        return
    wanted = Start(
        settings=settings,
        recipe=recipe,
        run=run or recipe.replace(":", "-"),
        image=image,
        gpu=gpu,
        without=tuple(without or ()),
        timeout_s=timeout,
    )
    for line in start(the_cluster(project), wanted):
        typer.echo(line)


@app.command(epilog=epilog("cluster scale"))
@with_groups
def scale(
    *,
    actors: Annotated[
        int | None, typer.Option("--actors", metavar="N", min=0, max=10_000, help="Target number of actors.")
    ] = None,
    learners: Annotated[
        int | None,
        typer.Option("--learners", metavar="M", min=1, max=1024, help="Number of learner ranks; restarts the learner."),
    ] = None,
    on: OnOption = EngineName.compose,
    project: ProjectOption = "oatmill",
) -> None:
    """Change the number of actors during training, or restart the learner with other ranks from a checkpoint."""
    from deploy.engines.start import scale_actors, scale_learners  # noqa: PLC0415
    from oatmill.errors import UserError  # noqa: PLC0415

    if actors is None and learners is None:
        raise UserError("expected --actors N or --learners M, got neither")
    if on is EngineName.ray:
        from deploy.engines import ray  # noqa: PLC0415

        if learners is not None or actors is None:
            raise UserError(
                "on Ray only --actors can be changed during a run; to change the ranks, stop the run and start it again"
            )
        ray.scale(project, actors, keys_from_environment())
        typer.echo(f"{project}: scaling to {actors} actors")
        return
    cluster = the_cluster(project)
    if learners is not None:
        scale_learners(cluster, learners)
        typer.echo(f"{project}: {learners} learner ranks")
    if actors is not None:
        scale_actors(cluster, actors)
        typer.echo(f"{project}: {actors} actors")


@app.command(epilog=epilog("cluster status"))
@with_groups
def status(
    *,
    as_json: JsonOption = False,
    on: OnOption = EngineName.compose,
    project: ProjectOption = "oatmill",
) -> None:
    """Show a cluster's containers and the run's progress."""
    from deploy.cli.status import progress_lines  # noqa: PLC0415

    if on is EngineName.ray:
        from deploy.engines import ray  # noqa: PLC0415

        answer, looks = ray.status(project, keys_from_environment())
        rows = [{"name": one.name, "node": one.node, "pid": one.pid, "exit_code": one.exit_code} for one in looks]
        what, line = "processes", "{name:<14}{node:<20}{pid}"
    else:
        from deploy.engines.start import running  # noqa: PLC0415

        cluster = the_cluster(project)
        containers, answer = running(cluster), cluster.status()
        rows = [{"service": one.service, "name": one.name, "state": one.state, "status": one.status} for one in containers]
        what, line = "containers", "{service:<14}{name:<28}{status}"
    if as_json:
        print_json({what: rows, "run": answer})
        return
    for text in (*progress_lines(answer), *(line.format(**row) for row in rows)):
        typer.echo(text)


@app.command(epilog=epilog("cluster down"))
@with_groups
def down(
    *,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Also remove runs, checkpoints, the replay log, keys and monitoring data.")
    ] = False,
    on: OnOption = EngineName.compose,
    project: ProjectOption = "oatmill",
) -> None:
    """Stop a cluster in order and remove its containers and networks.

    Runs, checkpoints, the replay log, keys and monitoring data stay in volumes for the next `up`;
    --volumes removes them.
    """
    if on is EngineName.ray:
        from deploy.engines import ray  # noqa: PLC0415

        ray.down(project, keys_from_environment())
        typer.echo(f"{project} has ended; its run folder is kept")
        return
    cluster = the_cluster(project)
    cluster.do("down", "--remove-orphans", *(["--volumes"] if volumes else []))
    if volumes:
        cluster.forget()
    typer.echo(f"{project} is down{', and its volumes were removed' if volumes else '; its volumes are kept (see --volumes)'}")
