"""How a run that has ended goes on, as its folder tells it. No message may promise a checkpoint that does not exist."""

from __future__ import annotations

import shlex
from pathlib import Path

from agent.checkpoint_manifest import LATEST, open_manifest, read_manifest
from learner.budget import check_budget_left
from learner.settings import TrainerSettings
from oatmill.errors import UserError
from oatmill.files.run_files import CONFIG_FILE, SUMMARY_FILE
from oatmill.settings import yaml_format
from runner.folder import read_json
from runner.trust import code_in


def newest_checkpoint(run_dir: Path) -> str:
    """The name of a run's newest checkpoint; empty if it has none."""
    try:
        return (run_dir / "checkpoints" / "latest").resolve(strict=True).name
    except OSError:
        return ""


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a run has a checkpoint to continue from."""
    return bool(newest_checkpoint(run_dir))


def check_newest_checkpoint(run_dir: Path, trainer: TrainerSettings) -> None:
    """Raise a UserError if the newest checkpoint has spent the budget, before any process starts.

    If that checkpoint is damaged, the learner looks for an older one.
    """
    checkpoint = run_dir / "checkpoints" / LATEST
    try:
        env_steps = open_manifest(checkpoint)["env_steps"]
        if not isinstance(env_steps, int) or env_steps < trainer.total_timesteps:
            return
        read_manifest(checkpoint)  # reads all files, so only here
    except UserError:
        return
    check_budget_left(env_steps, trainer)


def _names_code(run_dir: Path) -> bool:
    """Whether a run's settings name code of its user, which `--resume` runs only with `--trust`."""
    try:
        config = yaml_format.load((run_dir / CONFIG_FILE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and code_in(config) is not None


def continue_command(run_dir: str, *, trust: bool) -> str:
    """The command that continues a run.

    Args:
        run_dir: the run's folder.
        trust: whether the run's settings name code of its user.
    """
    return f"oatmill train --resume --run-dir {shlex.quote(run_dir)}{' --trust' if trust else ''}"


def way_on(run_dir: Path) -> str:
    """What a user can do with a run that has ended, as a part of a sentence."""
    checkpoint, summary = newest_checkpoint(run_dir), read_json(run_dir / SUMMARY_FILE)
    if not checkpoint:
        return "it has no checkpoint, so start it again in another folder"
    command = continue_command(str(run_dir), trust=_names_code(run_dir))
    if summary.get("outcome") == "done":
        return (
            f"its budget is spent; `{command} trainer.total_timesteps=N` continues it, with N above {summary.get('env_steps')}"
        )
    return f"`{command}` continues it from checkpoint {checkpoint}"
