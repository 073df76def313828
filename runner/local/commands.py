"""The command lines that start the roles."""

from __future__ import annotations

import sys
from pathlib import Path


def replay_command(
    config: Path, run_dir: Path, *, listen: str, insecure: bool, log_level: str, keys: Path | None = None
) -> list[str]:
    """The command line of the replay server."""
    arguments = ["--config", str(config), "--run-dir", str(run_dir), "--listen", listen, "--log-level", log_level]
    arguments.append("--validated")  # the settings were validated already, which takes half of the server's start time
    return _python("replay", *arguments, *_keys(keys), *(["--insecure"] if insecure else []))


def actor_command(
    config: Path | str, *, address: str, number: int | None, log_level: str, keys: Path | None = None
) -> list[str]:
    """The command line of an actor; the hub chooses its number if `number` is None."""
    arguments = ["--config", str(config), "--address", address, "--log-level", log_level]
    return _python("actors", *arguments, *_keys(keys), *([] if number is None else ["--actor-id", str(number)]))


def learner_command(
    config: Path, run_dir: Path, *, address: str, ranks: int, resume: bool, log_level: str, keys: Path | None = None
) -> list[str]:
    """The command line of the learner: one process, or a group of ranks that end together."""
    arguments = ["--config", str(config), "--run-dir", str(run_dir), "--address", address, "--log-level", log_level]
    arguments += [*_keys(keys), *(["--resume"] if resume else [])]
    if ranks == 1:
        return _python("learner", *arguments)
    return _python("learner.ranks.spawn", str(ranks), *arguments)


def evaluator_command(config: Path, run_dir: Path, *, log_level: str, trust: bool, in_container: bool = False) -> list[str]:
    """The command line of the evaluator."""
    arguments = ["--config", str(config), "--run-dir", str(run_dir), "--log-level", log_level]
    arguments += [*(["--trust"] if trust else []), *(["--in-container"] if in_container else [])]
    return _python("runner.evaluation.evaluator", *arguments)


def _keys(keys: Path | None) -> list[str]:
    return [] if keys is None else ["--keys", str(keys)]


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]
