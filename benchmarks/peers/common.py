"""Functions for all peers' runners. They need only the standard library, because they run in the peers' environments.

A runner is called as `RUNNER --steps N --seed S` and prints one line of JSON: `steps_per_s` from the first
training step to the last, `env_steps`, `return` (the mean over the last 100 episodes), and the CPU seconds and
elapsed seconds of the whole run.
"""

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

SETTINGS = json.loads(Path(os.environ.get("PEER_SETTINGS", Path(__file__).with_name("settings.json"))).read_text())
BEGAN = time.perf_counter()


def options():
    """Parse steps and seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def tell(**values):
    """Print the result and the CPU seconds of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    values["cpu_s"] = sum(usage.ru_utime + usage.ru_stime for usage in used)
    values["wall_s"] = time.perf_counter() - BEGAN
    sys.stdout.write("\n" + json.dumps(values) + "\n")


def cpu_of(pids):
    """CPU seconds of running processes (Linux)."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def mean_of_last(returns, count=100):
    """The mean over the last episodes; 0 if there are none."""
    last = list(returns)[-count:]
    return sum(last) / len(last) if last else 0.0
