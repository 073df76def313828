"""Trials of a recipe through Ray Tune: `python -m examples.ray_tune`. Needs `pip install 'ray[tune]'`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

import oatmill
from runner.observer import PlainObserver

ACTORS = 1
CPUS = 2
"""Of one trial: its actors, and one for the learner."""


class Reports(PlainObserver):
    """Passes each report of the learner on to Ray Tune, which may then end the trial."""

    def reported(self, line: Mapping[str, Any]) -> None:
        """Report the mean return, once an episode has ended."""
        mean = line["episode_return"]["mean"]
        if mean is not None:
            tune.report({"episode_return": mean, "env_steps": line["env_steps"]})


def trial(config: dict[str, Any], runs: Path) -> None:
    """Train CartPole with the settings that Ray Tune has chosen, in a folder below `runs`."""
    folder = runs / f"{tune.get_context().get_trial_id()}-{time.time_ns()}"  # a trial that Ray repeats needs a new one
    oatmill.train("cartpole", config, actors=ACTORS, run_dir=folder, observer=Reports())


def search(trials: int = 8, budget: int = 100_000, runs: Path = Path("runs/tune")) -> Any:
    """Try learning rates; ASHA ends trials whose return is low.

    Args:
        trials: the number of trials.
        budget: the env steps of a trial that is not ended early.
        runs: the folder for the run folders and Ray's own files, on each node.
    """
    space = {"trainer.total_timesteps": budget, "trainer.optimizer.learning_rate": tune.loguniform(1e-5, 1e-1)}
    # At max_t ASHA would end a run before its last checkpoint.
    asha = ASHAScheduler("env_steps", max_t=2 * budget, grace_period=budget // 5)
    config = tune.TuneConfig(metric="episode_return", mode="max", num_samples=trials, scheduler=asha)
    where = tune.RunConfig(storage_path=str(runs.absolute()))
    started = tune.with_resources(tune.with_parameters(trial, runs=runs.absolute()), {"cpu": CPUS})
    return tune.Tuner(started, param_space=space, tune_config=config, run_config=where).fit()


if __name__ == "__main__":
    best = search().get_best_result(scope="all")
    sys.stdout.write(f"{best.config}: return {best.metrics['episode_return']:.2f}, in {best.path}\n")
