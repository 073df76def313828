"""Finds the checkpoint that a user has named (no torch)."""

from __future__ import annotations

from pathlib import Path

from oatmill.errors import UserError

LATEST = "latest"


def find_checkpoint(path: Path) -> Path:
    """The folder of a checkpoint. A run folder means its newest checkpoint.

    Raises:
        UserError: if there is none.
    """
    if (path / "config.yaml").is_file():
        return (path / "checkpoints" / LATEST).resolve()
    if not path.is_dir():
        raise UserError(f"{path} is not a checkpoint: expected a folder, such as runs/latest/checkpoints/latest or runs/latest")
    return path.resolve()
