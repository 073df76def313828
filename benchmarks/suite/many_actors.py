"""The start of many actors on one machine: until 32 of CartPole have joined, and their memory once they have worked.

They are forked from one process, as `oatmill train` does it, or each is a process of its own with its own imports.
Memory is counted as PSS, in which shared pages count once.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.processes import ROOT, environment
from oatmill.files.json_lines import all_lines

WARM_UP = False
FORKED, OWN = "forked", "each with its own imports"
PROGRAM = """
import sys
from deploy.cli.entry import run_command
from runner.local.launcher import LocalLauncher
LocalLauncher.forks_actors = sys.argv[1] == "forked"
sys.exit(run_command(sys.argv[2:]))
"""
WORKED_S = 20.0
STOP_WITHIN_S = 120.0


def arms(effort: Effort, stack: ExitStack) -> Mapping[str, Arm]:
    """Both ways to start the actors."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="oatmill-bench-")))
    count, worked_s = (2, 0.0) if effort.quick else (32, WORKED_S)
    return {way: partial(start, way, folder, count, worked_s) for way in (FORKED, OWN)}


def start(way: str, folder: Path, count: int, worked_s: float) -> dict[str, float]:
    """Seconds from the run's start until all actors have joined, their CPU seconds until then, and their memory later."""
    run = folder / f"run-{time.monotonic_ns()}"
    words = ["train", "cartpole", "--actors", str(count), "trainer.total_timesteps=1000000000", "--run-dir", str(run), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, way, *words],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while len(joined := joins(run)) < count:
            if process.poll() is not None:
                raise SystemExit(f"the run ended with {process.returncode} before all actors had joined")
            time.sleep(0.05)
        cpu_s = sum(sum(actor.cpu_times()[:2]) for actor in actors_of(process.pid))
        time.sleep(worked_s)
        memory = sum(actor.memory_full_info().pss for actor in actors_of(process.pid))
        return {"joined_s": joined[-1], "actors_cpu_s": cpu_s, "memory_mb": memory / 1e6 / count}
    finally:
        process.terminate()
        process.wait(STOP_WITHIN_S)


def joins(run: Path) -> Sequence[float]:
    """When actors have joined, in seconds since the run's start."""
    events = all_lines(run / "events.jsonl")
    return [event["time"] - events[0]["time"] for event in events if event["event"] == "actor_joined"]


def actors_of(pid: int) -> Sequence[psutil.Process]:
    """The actors of a supervisor, and the process that forks them."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if {"actors", "actors.fork_server"} & set(child.cmdline())]


def figures(rounds: Rounds) -> Mapping[str, Figure]:
    """Each number of both ways."""
    found = {}
    for way in (FORKED, OWN):
        found[f"all actors have joined, {way}"] = Figure(rounds.median(way, "joined_s"), "s", "lower")
        found[f"CPU seconds of the actors until then, {way}"] = Figure(rounds.median(way, "actors_cpu_s"), "s", "lower")
        found[f"memory per actor, {way}"] = Figure(rounds.median(way, "memory_mb"), "MB", "lower")
    return found
