"""What the replay role's two processes have in common: their command line, their logs and how they are told to end."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from oatmill.errors import OatmillError, UserError
from oatmill.process.memory import MemoryLimit

ROOTS = ("env", "agent", "actors", "replay", "trainer", "metrics")
POLL_MS = 50
"""The longest sleep of a loop, so that SIGTERM and deadlines are noticed."""


class Ending:
    """Whether SIGTERM or SIGINT has come; the handler does nothing else, so it may come at any time."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def parser_of(prog: str) -> argparse.ArgumentParser:
    """The options of `python -m replay`."""
    parser = argparse.ArgumentParser(prog=prog, description="The server between actors and learner: queue, weights, metrics.")
    parser.add_argument("--config", type=Path, required=True, help="the run's resolved settings, config.yaml")
    parser.add_argument("--run-dir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--listen", required=True, help="ipc:///FOLDER or tcp://HOST[:PORT] (7300; 0 takes free ports)")
    parser.add_argument("--port-file", type=Path, help="a file to write the control address to when ready")
    parser.add_argument("--keys", type=Path, help="the server's keys, from `oatmill keygen`: everyone is asked for theirs")
    parser.add_argument("--insecure", action="store_true", help="listen beyond this machine without keys")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def load_config(path: Path) -> dict[str, Any]:
    """The roots of config.yaml.

    Raises:
        UserError: if it cannot be read or lacks a root.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read --config {path}: {error}") from None
    missing = [root for root in ROOTS if not isinstance(config, dict) or not isinstance(config.get(root), dict)]
    if missing:
        raise UserError(f"--config {path} lacks {', '.join(missing)}; it is the config.yaml that `oatmill train` writes")
    return dict(config)


def limit_memory(role: str, config: Mapping[str, Any]) -> MemoryLimit:
    """Have this process end when it takes more memory than replay.memory_bytes.

    Args:
        role: `hub` or `ingest`.
        config: the roots of config.yaml; one of an earlier release lacks the setting.
    """
    return MemoryLimit(role, config["replay"].get("memory_bytes"), setting="replay.memory_bytes")


def run_to_exit(main: Callable[[], int]) -> int:
    """Run a process's main function; an error that is meant for the user is one line, without a traceback."""
    try:
        return main()
    except OatmillError as error:
        sys.stderr.write(f"oatmill: error: {error}\n")
        return error.exit_code


def configure_logging(level: str) -> None:
    """Log to stderr, one line a record."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
