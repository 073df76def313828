"""The commit of the code that a run was started with."""

from __future__ import annotations

import subprocess
from pathlib import Path

WITHIN_S = 5.0


def git_commit(folder: Path) -> str | None:
    """The commit of the folder's repository, with `-dirty` after it if tracked files have changed since.

    Returns:
        None outside of a repository, without git, or if git does not answer in time.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
