"""Start-up times: `oatmill --help`, the replay server, and the first learner step of `train cartpole`."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.processes import ROOT, environment, oatmill
from benchmarks.replay import CASES, config_of, server

WARM_UP = True
GOALS: Mapping[str, tuple[str, float]] = {
    "oatmill --help": ("wall_s", 0.3),
    "replay server up": ("start_s", 1.0),
    "first learner step of train cartpole": ("start_s", 8.0),
}
STOP_WITHIN_S = 60.0


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """The three start-up times; with `quick` only the help."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="oatmill-bench-")))
    made: dict[str, Arm] = {"oatmill --help": show_help}
    if not effort.quick:
        made |= {"replay server up": start_server, "first learner step of train cartpole": lambda: first_step(folder)}
    return made


def show_help() -> dict[str, float]:
    """The time of the whole command."""
    subprocess.run(oatmill("--help"), env=environment(), stdout=subprocess.DEVNULL, check=True)
    return {}


def start_server() -> dict[str, float]:
    """The time until the file with the server's addresses exists."""
    with server(config_of(CASES["cartpole"], 1.0), "ipc") as (_, start):
        return {"start_s": start["start_s"]}


def first_step(folder: Path) -> dict[str, float]:
    """The time until the first line of metrics.jsonl; then the run is stopped."""
    run = folder / f"run-{time.monotonic_ns()}"
    command = oatmill("train", "cartpole", "trainer.total_timesteps=1000000000", "--run-dir", str(run), "--json")
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        lines = run / "metrics.jsonl"
        while not (lines.exists() and lines.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"the run ended with {process.returncode} before its first learner step")
            time.sleep(0.01)
        return {"start_s": time.perf_counter() - started}
    finally:
        process.terminate()
        process.wait(STOP_WITHIN_S)


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Elapsed seconds, and CPU seconds, which depend less on other work."""
    found = {
        name: Figure(rounds.median(name, key), "s", "lower", goal)
        for name, (key, goal) in GOALS.items()
        if name in rounds.values
    }
    for name in list(found)[:2]:  # a run goes on until it has been stopped
        found[f"{name}, CPU"] = Figure(rounds.median(name, "cpu_s"), "s", "lower")
    return found
