"""A thousand synthetic actors on the real replay server, with trajectories of 46 KB; see `benchmarks.fleet`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.fleet import measure
from benchmarks.harness import Arm, Effort, Figure, Rounds

WARM_UP = False
ACTORS, PROCESSES = 1_000, 2
OFFERED = 10_000.0
"""Trajectories per second. This is more than the server can take, so the rest waits for credit."""
GOAL_RATE, GOAL_ACK_MS = 8_000.0, 50.0


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """One arm at full speed, and one at half the target rate, at which acknowledgements do not wait for credit."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="oatmill-fleet-")))
    actors = 20 if effort.quick else ACTORS
    return {
        "as fast as it goes": lambda: run(folder, effort, actors, OFFERED),
        "half": lambda: run(folder, effort, actors, 4_000.0),
    }


def run(folder: Path, effort: Effort, actors: int, rate: float) -> dict[str, float]:
    """Run one fleet with its own server."""
    with TemporaryDirectory(dir=folder) as own:
        found = measure(Path(own), actors=actors, rate=rate, seconds=max(1.0, effort.seconds), processes=PROCESSES)
    return {name: float(value) for name, value in found.items()}


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Rate, acknowledgement times and memory. Nothing may be lost."""
    fast = "as fast as it goes"
    return {
        "acknowledged": Figure(rounds.median(fast, "acknowledged_per_second"), "trajectories/s", "higher", GOAL_RATE),
        "acknowledged at half the rate, p99": Figure(rounds.median("half", "ack_p99_ms"), "ms", "lower", GOAL_ACK_MS),
        "memory of ingest": Figure(rounds.median(fast, "ingest_peak_rss_mb"), "MB", "lower"),
        "lost": Figure(max(rounds.values[fast]["lost"]), "trajectories", "lower", 0.0),
    }
