"""Starts oatmill's commands and the Python processes of a benchmark, each with one thread."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 900.0


def environment() -> dict[str, str]:
    """The environment variables of a user who has set none of oatmill's."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OATMILL")}
    return plain | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def oatmill(*arguments: str) -> list[str]:
    """The command line of `oatmill`."""
    return [sys.executable, "-m", "deploy", *arguments]


def run_oatmill(*arguments: str, run_dir: Path) -> dict[str, Any]:
    """Run a command that creates a run folder, and return its JSON.

    Raises:
        SystemExit: if it failed.
    """
    command = oatmill(*arguments, "--run-dir", str(run_dir), "--json")
    ended = subprocess.run(
        command, cwd=run_dir.parent, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def start_python(module: str, *arguments: str, extra: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a process of a benchmark, which prints JSON."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment() | dict(extra or {}), stdout=subprocess.PIPE, text=True)


def arguments_of(description: str | None, **kinds: Callable[[str], Any]) -> list[Any]:
    """The positional arguments of such a process.

    Args:
        description: the module's docstring, for `--help`.
        kinds: the type of each argument by its name.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in kinds.items():
        parser.add_argument(name, type=kind)
    return list(vars(parser.parse_args()).values())


def answer_of(process: subprocess.Popen[str]) -> Any:
    """The output of a process that `start` has started.

    Raises:
        SystemExit: if it failed.
    """
    output, _ = process.communicate(timeout=TIMEOUT_S)
    if process.returncode:
        raise SystemExit(f"a process of the benchmark ended with {process.returncode}: {process.args!r}")
    return json.loads(output)
