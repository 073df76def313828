"""The cost of stepping, inference and the update alone, the limit that follows, and a whole run.

Costs are CPU seconds per env step. Each is measured alone in this process with one thread. If nothing else
had a cost, C cores could do C / (stepping + inference + update) steps per second, because the work is
spread over processes. In addition, A actors can do at most A / (stepping + inference) steps per second, and
the learner at most 1 / update. The roofline is the smallest of these three limits.

The whole run is `oatmill train` with the recipe's own settings. It is long enough for batches of the
recipe's own size and is measured after a warm-up. The difference to 1 is the cost of sockets,
serialisation, the replay server, publishing, reports and other work on the machine. `per CPU second`
compares with the CPU time that the run's processes really got. A run of twenty batches is subtracted, so
that it does not include start and end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from actors.environments.checks import first_observations
from actors.environments.make import make_environment
from actors.policy import ActingPolicy
from agent.spec import AgentSpec
from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.losses import NEVER, make
from benchmarks.processes import run_oatmill
from benchmarks.real_batch import real_inputs
from benchmarks.runs import least_steps, steady_rate
from recipes.registry import find_recipe
from runner.settings import RunSettings

WARM_UP = False
RECIPES = {"cogs_v_clips": 75_000, "cartpole": 150_000}
"""Env steps of the whole run per second of `--seconds`. On two idle cores the run takes three times `--seconds`."""
GOAL = 0.85
ALONE = ("stepping", "inference", "update")


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """Each part alone, and the whole run, for each recipe."""
    return arms_of(RECIPES, effort, stack)


def arms_of(recipes: Mapping[str, int], effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """The arms of recipes, which are named with the env steps of a whole run per second of `--seconds`."""
    torch.set_num_threads(1)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="oatmill-bench-")))
    made: dict[str, Arm] = {}
    for recipe in list(recipes)[-1:] if effort.quick else recipes:
        settings = find_recipe(recipe).settings()
        made |= {f"{recipe}: {name}": arm for name, arm in parts(settings, effort, stack).items()}
        made[f"{recipe}: whole"] = whole(recipe, whole_steps(recipes[recipe], settings, effort), folder)
        made[f"{recipe}: short"] = whole(recipe, least_steps(settings), folder)
    return made


def whole_steps(per_second: int, settings: RunSettings, effort: Effort) -> int:
    """Steps of the whole run: at least twice those of the short one, which is subtracted."""
    return max(2 * least_steps(settings), int(per_second * effort.seconds))


def parts(settings: RunSettings, effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """Stepping with random actions, inference on an environment's observations, the update of a real batch."""
    environment = make_environment(settings.env, copies=settings.actors.envs_per_actor, seed=1)
    stack.callback(environment.close)
    first = first_observations(environment).copy()
    spec = AgentSpec(environment.spaces, settings.agent)
    policy = ActingPolicy(spec, environment.num_rows, 1)
    actions = np.random.default_rng(1).integers(0, spec.spaces.action.sizes[0], (64, environment.num_rows))
    _, inputs = real_inputs(settings)
    updater = make(settings, spec)
    updater.learn(inputs, learning_rate=1e-4, report=False)
    unrolls = 1 if effort.quick else max(1, int(effort.seconds * 8))

    def stepping() -> dict[str, float]:
        for _ in range(unrolls):
            for row in actions:
                environment.step(row)
        return {"steps": float(unrolls * actions.size)}

    def inference() -> dict[str, float]:
        for _ in range(unrolls * len(actions)):
            policy.act(first)
        return {"steps": float(unrolls * actions.size)}

    def update() -> dict[str, float]:
        updater.measured_at = updater.updates + NEVER
        for _ in range(max(1, unrolls // 4)):
            updater.learn(inputs, learning_rate=1e-4, report=False)
        return {"steps": float(max(1, unrolls // 4) * inputs["mask_BT"].numel())}

    return {"stepping": stepping, "inference": inference, "update": update}


def whole(recipe: str, steps: int, folder: Path) -> Arm:
    """Run once."""
    number = 0

    def arm() -> dict[str, float]:
        nonlocal number
        number += 1
        run = folder / f"{recipe.replace(':', '-')}-{steps}-{number}"
        summary = run_oatmill("train", recipe, f"trainer.total_timesteps={steps}", f"--seed={number}", run_dir=run)
        return {"steps": float(summary["env_steps"]), "steps_per_s": steady_rate(run)}

    return arm


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Costs, the roofline, and the fractions."""
    return figures_of(RECIPES, rounds)


def figures_of(recipes: Iterable[str], rounds: Rounds) -> dict[str, Figure]:
    """The figures of those recipes that were measured."""
    found: dict[str, Figure] = {}
    cores = len(os.sched_getaffinity(0))
    for recipe in recipes:
        if f"{recipe}: whole" not in rounds.values:
            continue
        cost = {
            name: rounds.median(f"{recipe}: {name}", "cpu_s") / rounds.median(f"{recipe}: {name}", "steps") for name in ALONE
        }
        for name in ALONE:
            found[f"{recipe}: {name} alone"] = Figure(1e6 * cost[name], "us CPU/step", "lower")
        acting = cost["stepping"] + cost["inference"]
        actors = find_recipe(recipe).settings().actors.count
        together = acting + cost["update"]
        roof = min(cores / together, actors / acting, 1 / cost["update"])
        found[f"{recipe}: roofline of {cores} cores"] = Figure(roof, "steps/s")
        reached = rounds.median(f"{recipe}: whole", "steps_per_s")
        found[f"{recipe}: whole run"] = Figure(reached, "steps/s")
        found[f"{recipe}: whole run / roofline"] = Figure(reached / roof, "x", "higher", GOAL)
        found[f"{recipe}: whole run / roofline, per CPU second"] = Figure(per_cpu(rounds, recipe) * together, "x")
    return found


def per_cpu(rounds: Rounds, recipe: str) -> float:
    """Steps per CPU second of the whole run minus the short one, which removes start and end."""
    values, short = rounds.values[f"{recipe}: whole"], rounds.values[f"{recipe}: short"]
    rows = zip(values["steps"], short["steps"], values["cpu_s"], short["cpu_s"], strict=True)
    return float(np.median([(steps - few) / max(cpu - less, 1e-9) for steps, few, cpu, less in rows]))
