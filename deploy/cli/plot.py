"""`oatmill plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.options import RunDirOption
from oatmill.files.run_files import METRICS_FILE


def plot(
    run_dirs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders. Default: the newest run.")
    ] = None,
    *,
    run_dir: RunDirOption = None,
) -> None:
    """Draw a run's curves as a PNG file in its folder `plots`.

    The curves are the return, each loss's weighted value and gradient norm, and policy statistics.
    Needs oatmill[plot].
    """
    from deploy.curves import draw  # noqa: PLC0415
    from runner.folder import find_run, reading  # noqa: PLC0415

    chosen = [*(run_dirs or ()), *([] if run_dir is None else [run_dir])]
    for folder in chosen or [find_run(None)]:
        with reading(folder / METRICS_FILE):
            picture = draw(folder)
        typer.echo(str(picture))
