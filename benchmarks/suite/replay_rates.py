"""Unrolls of 64 steps through the real replay server, with small observations and with 84x84x4.

Two processes insert and one samples. The rates are those of `benchmarks.replay`. `benchmarks.peers` measures
other systems in its own interleaved rounds.
"""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack

from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.replay import measure

WARM_UP = False
CASES = {"small steps": "cartpole", "84x84x4 steps": "atari"}


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:  # noqa: ARG001  (the harness's signature)
    """One arm per case."""
    names = list(CASES)[:1] if effort.quick else list(CASES)
    return {name: arm_of(CASES[name], effort.seconds) for name in names}


def arm_of(case: str, seconds: float) -> Arm:
    """A server, two writers, one sampler."""

    def arm() -> dict[str, float]:
        found = measure(case, "ipc", "memory", Namespace(seconds=max(1.0, seconds), queue_batches=2.0), None)
        return {name: value for name, value in found.items() if isinstance(value, float)}

    return arm


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Unrolls, bytes and acknowledgements."""
    found: dict[str, Figure] = {}
    for name in rounds.values:
        found[f"{name}, unrolls"] = Figure(rounds.median(name, "unrolls_per_s"), "unrolls/s")
        found[f"{name}, bytes"] = Figure(rounds.median(name, "mb_per_s"), "MB/s")
        found[f"{name}, CPU of all processes"] = Figure(rounds.median(name, "cpu_s_per_gb"), "s/GB", "lower")
        found[f"{name}, acknowledged, p99"] = Figure(rounds.median(name, "ack_p99_ms"), "ms", "lower")
    return found
