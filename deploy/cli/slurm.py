"""`oatmill slurm`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.groups import TrainingOptions
from deploy.cli.options import KeysOption, LogLevel, LogLevelOption, TrustOption

if TYPE_CHECKING:
    from runner.settings import RunSettings


@dataclass(eq=False)
class Resources:
    """What the job asks Slurm for."""

    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=1, help="Nodes.")] = 1
    actors_per_node: Annotated[
        int | None, typer.Option("--actors-per-node", metavar="A", min=1, help="Actors on each node, instead of --actors.")
    ] = None
    cpus: Annotated[
        int | None,
        typer.Option(
            "--cpus", metavar="C", min=1, help="CPUs of each node. Default: one for each actor and rank, two for replay."
        ),
    ] = None
    gpus: Annotated[
        int, typer.Option("--gpus-per-node", metavar="G", min=0, help="GPUs of each node; a learner rank for each of them.")
    ] = 0
    mem: Annotated[str | None, typer.Option("--mem", metavar="SIZE", help="Memory of each node, such as 32G.")] = None
    partition: Annotated[str | None, typer.Option("--partition", metavar="NAME", help="Slurm's partition.")] = None
    account: Annotated[str | None, typer.Option("--account", metavar="NAME", help="The account to charge.")] = None
    time: Annotated[str | None, typer.Option("--time", metavar="TIME", help="Time limit of the job, such as 4:00:00.")] = None

    def apply(self, settings: RunSettings) -> None:
        """Set the numbers of actors and ranks that follow from the nodes."""
        if self.actors_per_node is not None:
            settings.actors.count = self.actors_per_node * self.nodes
        if self.gpus and "learners" not in settings.trainer.model_fields_set:
            settings.trainer.learners = self.gpus * self.nodes


def slurm(
    *,
    training: TrainingOptions,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", metavar="DIR", help="The run folder, which all nodes share. Default: runs/RECIPE."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an ended run from its newest checkpoint; needs no recipe.")
    ] = False,
    trust: TrustOption = False,
    resources: Resources,
    keys: KeysOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch script; write and submit nothing.")] = False,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Submit a run as one Slurm job, which is requeued and resumed when its time is up.

    `oatmill status`, `top`, `scale` and `stop` work with the run folder. Settings have the same
    precedence as for `oatmill train`.
    """
    from deploy.engines.slurm import SlurmJob, submit  # noqa: PLC0415
    from oatmill.errors import UserError  # noqa: PLC0415
    from runner.folder import find_run, folder_name  # noqa: PLC0415
    from runner.settings import prepared  # noqa: PLC0415

    if training.actors is not None and resources.actors_per_node is not None:
        raise UserError("expected --actors or --actors-per-node, got both")
    run = training.resolve(resumed=find_run(run_dir) if resume else None, trust=trust)
    resources.apply(run.settings)
    settings, notes = prepared(run.settings)
    job = SlurmJob(
        settings=settings,
        recipe=run.recipe,
        preset=run.preset,
        run_dir=find_run(run_dir) if resume else (run_dir or Path("runs", folder_name(run.recipe))).absolute(),
        keys=None if keys is None else keys.absolute(),
        nodes=resources.nodes,
        cpus=resources.cpus,
        gpus=resources.gpus,
        asked={name: getattr(resources, name) for name in ("mem", "partition", "account", "time")},
        log_level=log_level.value,
    )
    script = job.script()
    for note in notes:
        typer.echo(note, err=True)
    if dry_run:
        typer.echo(script, nl=False)
        return
    typer.echo(submit(job, resume=resume))
    typer.echo(f"its folder is {job.run_dir}; see it with: oatmill status {job.run_dir}")
