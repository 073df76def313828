"""Shared code of `oatmill replay`, `actor` and `learner`: settings, and starting the role's program."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from deploy.cli.groups import RoleOptions
from oatmill.children.environment import child_environment
from oatmill.errors import UserError
from oatmill.files.atomic import FOLDER_MODE
from oatmill.settings import yaml_format
from oatmill.settings.flat import first_difference, flatten_settings, joining_config
from runner.overrides import command_layers, resolve
from runner.settings import RunSettings, prepared, read_config, write_config


def role_settings(role: RoleOptions) -> RunSettings:
    """The settings of a role's command line.

    Raises:
        UserError: if the settings are invalid or missing.
    """
    recipe, config, assigned = role.recipe, role.config, list(role.assignments or ())
    if recipe is not None and "=" in recipe:
        assigned.insert(0, recipe)
        recipe = os.environ.get("OATMILL_RECIPE") or None
    if recipe is not None:
        from recipes.resolve import resolve_run  # noqa: PLC0415

        return prepared(resolve_run(recipe, assigned, preset=role.preset, config=config, flags={}).settings)[0]
    if config is None:
        raise UserError("expected a RECIPE, or --config FILE with a run's config.yaml, got neither")
    layers = command_layers(preset={}, config=config, environ=os.environ, assignments=assigned, flags={})
    return prepared(resolve({}, layers))[0]


def keep_config(settings: RunSettings, run_dir: Path) -> Path:
    """Write or update a run folder's config.yaml.

    A run can be continued with another budget, number of ranks or learning rate, but not with another
    environment or network.

    Raises:
        UserError: if the folder cannot be written to, or belongs to another run.
    """
    path = run_dir / "config.yaml"
    if path.exists():
        before, now = read_config(path).to_dict(), settings.to_dict()
        if flatten_settings(before) == flatten_settings(now):
            return path
        difference = first_difference(joining_config(before), joining_config(now))
        if difference is not None:
            raise UserError(f"{path} belongs to another run: {difference}; use its settings, or another --run-dir")
    try:
        run_dir.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        write_config(settings, path)
    except OSError as error:
        raise UserError(f"--run-dir {run_dir} cannot be written to: {error.strerror}") from None
    return path


def pass_config(settings: RunSettings) -> str:
    """Write the settings to a temporary file that the role's program can read; returns its path."""
    content = yaml_format.dump(settings.to_dict()).encode()
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("config.yaml", 0)
        os.write(descriptor, content)
        return f"/proc/self/fd/{descriptor}"
    descriptor, path = tempfile.mkstemp(suffix=".yaml")
    os.write(descriptor, content)
    os.close(descriptor)
    return path


def become(command: Sequence[str], *, threads: int) -> NoReturn:
    """Replace this process by a role's program (exec)."""
    os.execve(command[0], list(command), child_environment(os.environ, threads))


def watch_over(command: Sequence[str], settings: RunSettings, *, address: str, keys: Path | None) -> int:
    """Run the learner as a child process, for containers; returns the exit code."""
    from deploy.engines.learner_entry import HUNG_AFTER, LearnerEntry, end_run  # noqa: PLC0415

    trainer = settings.trainer
    entry = LearnerEntry(
        command,
        child_environment(os.environ, trainer.first_threads),
        port=settings.metrics.port,
        hung_after_s=HUNG_AFTER * trainer.data_timeout,
    )
    code = entry.wait()
    if code == 0 and not entry.asked:
        end_run(address, keys)
    return code
