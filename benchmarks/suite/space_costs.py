"""The cost of normalisation, of a Dict of two keys, and of action masks: acting, and a whole learner step.

All arms have the shapes of LunarLander: eight numbers and four choices. `plain` is one vector, `normalised` normalises
observations and rewards, `dict` has the same eight numbers under two keys, and `masked` adds a mask that allows three of the
four choices. `act` is the network alone. `actor` is an actor's whole step: an environment that takes 2 us, `act` and the
record. A learner step includes everything from the batch's arrays to the new weights.
"""
# ruff: noqa: ARG002 -- the signatures are Gymnasium's

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from actors.environments.checks import first_observations
from actors.environments.make import make_environment
from actors.policy import ActingPolicy
from actors.unroll import Unroller
from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.losses import make
from benchmarks.real_batch import real_batch
from benchmarks.suite.inference import policy_arm
from learner.update.batch_training import BatchTraining
from protocol.data.batch import Batch
from recipes.registry import find_recipe
from runner.settings import RunSettings

WARM_UP = True
FORMS = ("plain", "normalised", "dict", "masked")
GOAL = 1.05
CALLS_A_SECOND = 2_000
NUMBERS, CHOICES, LENGTH = 8, 4, 200
MASKS = 1 - np.eye(CHOICES, dtype=np.int8)


class RandomNumbers(gymnasium.Env):  # type: ignore[misc]
    """An environment whose observations and rewards are random numbers.

    Args:
        form: one of `FORMS`.
    """

    def __init__(self, form: str) -> None:
        self.form = form
        self.action_space = Discrete(CHOICES)
        self.numbers = partial(Box, -np.inf, np.inf, dtype=np.float32)
        self.observation_space = {
            "dict": Dict(a=self.numbers(shape=(NUMBERS // 2,)), b=self.numbers(shape=(NUMBERS // 2,))),
            "masked": Dict(observation=self.numbers(shape=(NUMBERS,)), action_mask=MultiBinary(CHOICES)),
        }.get(form, self.numbers(shape=(NUMBERS,)))
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.steps = 0
        return self.observation(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Any action gives the next random numbers."""
        self.steps += 1
        return self.observation(), float(self.np_random.normal()), self.steps == LENGTH, False, {}

    def observation(self) -> Any:
        """New random numbers."""
        numbers = self.np_random.normal(size=NUMBERS).astype(np.float32)
        match self.form:
            case "dict":
                return {"a": numbers[: NUMBERS // 2], "b": numbers[NUMBERS // 2 :]}
            case "masked":
                return {"observation": numbers, "action_mask": MASKS[self.steps % CHOICES]}
            case _:
                return numbers


def settings_of(form: str) -> RunSettings:
    """The settings of lunar_lander without replay, for one form."""
    values = find_recipe("lunar_lander").settings().explicit()
    del values["replay"]
    values["env"] = {"kind": "factory", "factory": f"{__name__}:RandomNumbers", "kwargs": {"form": form}}
    values["agent"]["normalize_observations"] = values["trainer"]["normalize_returns"] = form == "normalised"
    return RunSettings.of(values)


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """The network, an actor's steps and learning in each form."""
    torch.set_num_threads(1)
    calls = 20 if effort.quick else int(CALLS_A_SECOND * effort.seconds)
    made: dict[str, Arm] = {}
    for form in FORMS:
        settings = settings_of(form)
        spec, batch = real_batch(settings, trajectories=settings.trainer.minibatches if effort.quick else None)
        environment = stack.enter_context(
            closing(make_environment(settings.env, copies=settings.actors.envs_per_actor, seed=1))
        )
        observations, rows = first_observations(environment), environment.num_rows
        made[f"{form}: act"] = policy_arm(ActingPolicy(spec, rows, 1), observations.copy(), calls)
        unroller = Unroller(environment, observations, ActingPolicy(spec, rows, 1), settings.actors.unroll_length)
        made[f"{form}: actor"] = partial(unroll, unroller, max(1, calls // settings.actors.unroll_length))
        made[f"{form}: learner step"] = learner_arm(settings, spec, batch)
    return made


def unroll(unroller: Unroller, unrolls: int) -> dict[str, float]:
    """An actor's unrolls."""
    for _ in range(unrolls):
        unroller.collect(lambda: True)
    return {}


def learner_arm(settings: RunSettings, spec: Any, batch: Batch) -> Arm:
    """What the learner does with a batch."""
    training = BatchTraining(make(settings, spec), torch.device("cpu"))

    def arm() -> dict[str, float]:
        training.train(batch, env_steps=0)
        return {}

    return arm


def figures(rounds: Rounds) -> dict[str, Figure]:
    """CPU time as a ratio to `plain`."""
    return {
        f"{form} / plain, {what}": Figure(rounds.ratio(f"{form}: {what}", f"plain: {what}", "cpu_s"), "x", "lower", GOAL)
        for what in ("act", "actor", "learner step")
        for form in FORMS[1:]
    }
