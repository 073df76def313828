"""`oatmill push`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import TrustOption


def push(
    *,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a checkpoint (step-N folder).")],
    repository: Annotated[str, typer.Argument(metavar="NAMESPACE/NAME", help="The repository; created if it does not exist.")],
    episodes: Annotated[
        int,
        typer.Option(
            "--episodes", metavar="N", min=0, help="Episodes with the most likely actions, and with sampled actions (N each)."
        ),
    ] = 20,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Seed of these episodes.")] = 0,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
    publish: Annotated[
        list[str] | None,
        typer.Option("--publish", metavar="KEY", help="Upload a setting that is left out by default, such as env.kwargs.NAME."),
    ] = None,
    dry_run: Annotated[
        Path | None, typer.Option("--dry-run", metavar="DIR", help="Only write the files to a new or empty folder.")
    ] = None,
    trust: TrustOption = False,
) -> None:
    """Upload a trained policy to the Hugging Face Hub (needs oatmill[hub]).

    The files are a model card with settings and returns, config.yaml, the checkpoint, an ONNX file if oatmill[export] is
    installed, and a video if oatmill[video] is. Strings in env.kwargs (they may be secrets) and paths are left out.
    """
    from agent.checkpoint_manifest import find_checkpoint  # noqa: PLC0415
    from deploy.cli.evaluate import played_in_another_process  # noqa: PLC0415
    from deploy.publishing.policy_folder import Wanted, new_folder, write_policy_folder  # noqa: PLC0415
    from runner.hub import check_repository, check_upload, upload  # noqa: PLC0415

    check_repository(repository)
    find_checkpoint(run)
    if dry_run is None:
        check_upload()
    wanted = Wanted(run, repository, episodes=episodes, seed=seed, publish=publish or (), trust=trust)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if dry_run is None else new_folder(dry_run)
        for note in write_policy_folder(folder, wanted, lambda given: played_in_another_process(dict(given))):
            typer.echo(f"note: {note}", err=True)
        for path in sorted(folder.iterdir()):
            typer.echo(f"{path.name:<20}{path.stat().st_size / 1e6:9.3f} MB")
        typer.echo(f"written to {folder}" if dry_run else upload(folder, repository, private=private))
