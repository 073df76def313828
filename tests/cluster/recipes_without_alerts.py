"""Each recipe on a real cluster, from its start to its end or for half an hour: which alerts fire?

    OATMILL_BASE_IMAGE=... .venv/bin/python -m tests.cluster.recipes_without_alerts --at-once 4 cartpole pendulum ...

It takes hours, so it is a program and no test. It prints one line a recipe. Without names, it runs all recipes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from recipes.registry import BUILT_IN
from tests.cluster.clusters import Cluster, built, new_cluster

IMAGE = "oatmill-test/oatmill:all-recipes"
EXTRAS = "cogs,box2d,minigrid,atari,mujoco,dmc,minatar"
AFTER_END_S = 180.0
"""Longer than any alert about a role takes to fire."""
ONE_WHEEL = threading.Lock()
"""Wheels are built in the checkout's folder `build`."""


def alerts(cluster: Cluster, state: str) -> dict[str, int]:
    """How many samples each alert has had in a state."""
    found = cluster.query(f'count_over_time(ALERTS{{alertstate="{state}", alertname!="Watchdog"}}[3h])')
    return {f"{sample['metric']['alertname']} ({sample['metric']['severity']})": int(sample["value"][1]) for sample in found}


def last(cluster: Cluster, metric: str) -> float:
    """The newest value of a metric, also after the run has ended."""
    found = cluster.query(f"max(last_over_time({metric}[3h]))")
    return float(found[0]["value"][1]) if found else float("nan")


def watch(recipe: str, minutes: float, folder: Path) -> dict[str, object]:
    """Run one recipe and say what fired."""
    folder.mkdir()
    with ONE_WHEEL:
        cluster = new_cluster(folder, f"oatmill-quiet-{recipe.replace('_', '-')}")
    began = time.monotonic()
    try:
        cluster.up(recipe, "--actors", "2", image=IMAGE)
        ended = None
        while time.monotonic() - began < 60 * minutes and (ended is None or time.monotonic() - ended < AFTER_END_S):
            time.sleep(5)
            if ended is None and cluster.query("oatmill_run_stopped == 1"):
                ended = time.monotonic()
        return {
            "recipe": recipe,
            "minutes": round((time.monotonic() - began) / 60, 1),
            "ended_after_min": None if ended is None else round((ended - began) / 60, 1),
            "env_steps": last(cluster, "oatmill_env_steps_total"),
            "return": last(cluster, 'oatmill_episode_return{quantile="0.5"}'),
            "fired": alerts(cluster, "firing"),
            "pending": alerts(cluster, "pending"),
        }
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        return {"recipe": recipe, "failed": str(error)[-2000:]}
    finally:
        cluster.try_oatmill("down", "--volumes")


def main() -> None:
    """Run the recipes asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=sorted(BUILT_IN))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--at-once", type=int, default=2, help="clusters that run at the same time")
    asked = parser.parse_args()
    built(IMAGE, EXTRAS=EXTRAS)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(asked.at_once) as threads:
        runs = [threads.submit(watch, recipe, asked.minutes, Path(scratch) / recipe) for recipe in asked.recipes]
        for done in as_completed(runs):
            sys.stdout.write(json.dumps(done.result()) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
