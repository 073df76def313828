"""The time of `ActingPolicy.act` for an actor's rows, compared with the bare network.

The bare network is the model's forward pass only, without sampling actions and without conversions from
and to NumPy. The ratio shows the cost of the rest of acting. `compiled` is the same forward pass under
`torch.compile`; it is measured only with `OATMILL_BENCH_COMPILE=1`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing

import torch

from actors.environments.checks import first_observations
from actors.environments.make import make_environment
from actors.policy import ActingPolicy
from agent.model import AgentModel
from agent.spec import AgentSpec
from benchmarks.harness import Arm, Effort, Figure, Rounds
from protocol.data.trajectory import Array
from recipes.registry import find_recipe

WARM_UP = True
RECIPES = ("cartpole", "cogs_v_clips")
CALLS_A_SECOND = 2_000


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:  # noqa: ARG001  (the harness's signature)
    """Policy and bare network of each recipe."""
    torch.set_num_threads(1)
    calls = 20 if effort.quick else int(CALLS_A_SECOND * effort.seconds)
    made: dict[str, Arm] = {}
    for recipe in RECIPES[:1] if effort.quick else RECIPES:
        settings = find_recipe(recipe).settings()
        with closing(make_environment(settings.env, copies=settings.actors.envs_per_actor, seed=1)) as environment:
            observations = first_observations(environment).copy()
            spec, rows = AgentSpec(environment.spaces, settings.agent), environment.num_rows
        made[f"{recipe}: act"] = policy_arm(ActingPolicy(spec, rows, 1), observations, calls)
        made[f"{recipe}: bare network"] = bare_arm(AgentModel(spec).eval(), observations, calls)
        if os.environ.get("OATMILL_BENCH_COMPILE"):
            model = AgentModel(spec).eval()
            model.encoder.compile(dynamic=False)
            made[f"{recipe}: compiled encoder"] = bare_arm(model, observations, calls)
    return made


def policy_arm(policy: ActingPolicy, observations: Array, calls: int) -> Arm:
    """The call of an actor."""

    def arm() -> dict[str, float]:
        for _ in range(calls):
            policy.act(observations)
        return {"row_steps": float(calls * len(observations))}

    return arm


def bare_arm(model: AgentModel, observations: Array, calls: int) -> Arm:
    """The forward pass alone."""
    tensor, state = torch.from_numpy(observations), model.initial_state(len(observations))

    def arm() -> dict[str, float]:
        for _ in range(calls):
            model.act(tensor, state)
        return {"row_steps": float(calls * len(observations))}

    return arm


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Rows per CPU second, and the ratio."""
    found: dict[str, Figure] = {}
    for name in rounds.values:
        found[f"{name}"] = Figure(rounds.median(name, "row_steps") / rounds.median(name, "cpu_s"), "rows/CPU s")
    for recipe in RECIPES:
        if f"{recipe}: act" in rounds.values:
            ratio = rounds.ratio(f"{recipe}: act", f"{recipe}: bare network", "cpu_s")
            found[f"{recipe}: act / bare network"] = Figure(ratio, "x", "lower")
    return found
