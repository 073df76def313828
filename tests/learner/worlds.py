"""Small worlds that the learner's tests train on: networks, settings of the four arms, batches with every kind of end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from agent.settings import AgentSettings
from agent.spec import AgentSpec
from learner.loss import Context
from learner.ranks.reduce import OneRank, Ranks
from learner.settings import TrainerSettings
from learner.setup import LearnerConfig, make_updater
from learner.update.forward import model_outputs
from learner.update.inputs import to_inputs
from learner.update.objective import Weighed
from learner.update.updater import Record, Updater
from oatmill.settings.base import MetricsSettings
from protocol.data.batch import Batch
from protocol.data.spaces import ActionPart, ActionSpace, ObservationSpace, Spaces
from protocol.data.trajectory import Array

OBSERVATION = 4
ARMS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "muesli": {"losses.muesli_model.enabled": True},
    "muesli_cmpo": {"losses.muesli_model.enabled": True, "losses.cmpo.enabled": True},
    "full": {"losses.muesli_model.enabled": True, "losses.cmpo.enabled": True, "losses.dynamics.enabled": True},
}
"""The guide's protocol."""
PLANS: dict[str, dict[str, Any]] = ARMS | {
    "paper": ARMS["full"] | {"losses.ppo_actor.enabled": False, "losses.muesli_pg.enabled": True, "returns": "retrace"}
}
"""The arms, and the sixth loss in the place of PPO's."""
CPU = torch.device("cpu")
ONE = Ranks(0, 1, CPU, OneRank())


def make_action(sizes: tuple[int, ...], *, factored: bool = False, numbers: int = 0) -> ActionSpace:
    """Choices, and numbers of -1..1 behind them if asked for."""
    if not numbers:
        return ActionSpace(sizes, factored)
    width = len(sizes)
    choices = [ActionPart((0,), (width,), "int64", (0, width), (0,) * width)] if sizes else []
    parts = (*choices, ActionPart((1,), (numbers,), "float32", (width, width + numbers)))
    return ActionSpace(sizes, factored=True, low=(-1.0,) * numbers, high=(1.0,) * numbers, parts=parts)


def make_spec(*, sizes: tuple[int, ...] = (3,), factored: bool = False, numbers: int = 0, **agent: Any) -> AgentSpec:
    """A network small enough to train in a millisecond; a scalar value head unless told."""
    settings = {
        "hidden_sizes": (8,),
        "value_head": "scalar",
        "core_size": 6,
        "model_hidden": 5,
        "num_bins": 21,
        "value_range": 10.0,
    }
    action = make_action(sizes, factored=factored, numbers=numbers)
    spaces = Spaces(ObservationSpace("vector", (OBSERVATION,), "float32"), action)
    return AgentSpec(spaces, AgentSettings.model_validate(settings | agent))


def make_trainer(arm: str = "full", changes: Mapping[str, Any] | None = None) -> TrainerSettings:
    """An arm's settings with more of them assigned by dotted path; two epochs of two minibatches."""
    trainer = TrainerSettings(epochs=2, minibatches=2, batch_size=6)
    for path, value in (PLANS[arm] | dict(changes or {})).items():
        *groups, name = path.split(".")
        setattr(reduce(getattr, groups, trainer), name, value)
    return trainer


def make_updater_of(trainer: TrainerSettings, spec: AgentSpec, *, gradient_every: int = 1, ranks: Ranks = ONE) -> Updater:
    """The learner's own construction of networks and optimiser."""
    metrics = MetricsSettings(gradient_every=gradient_every)
    updater = make_updater(LearnerConfig(trainer, spec.settings, metrics, {}, "", Path()), spec, ranks)
    shake(updater.context, seed=1)
    return updater


def shake(context: Context, seed: int) -> None:
    """Random parameters everywhere, the prior's unlike the trained ones: heads that start at zero would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for model in (context.model, context.prior):
            for parameter in model.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))


def make_context(trainer: TrainerSettings | None = None, spec: AgentSpec | None = None) -> Context:
    """What a node is made with."""
    return make_updater_of(trainer or make_trainer(), spec or make_spec()).context


def cmpo_context(changes: dict[str, Any] | None = None, **spec: Any) -> Context:
    """The full arm's, with settings of CMPO changed."""
    return make_context(
        make_trainer("full", {f"losses.cmpo.{n}": value for n, value in (changes or {}).items()}), make_spec(**spec)
    )


def random_normal(seed: int, *shape: int) -> Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_batch(spec: AgentSpec, *, size: int = 6, steps: int = 7, seed: int = 0, absent: bool = False) -> Batch:
    """Random trajectories in which episodes terminate, are cut, and (if asked for) leave their row empty for a while."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, (size, steps), p=(0.7, 0.18, 0.12))
    terminated, truncated = kind == 1, kind == 2
    valid = np.ones((size, steps), bool)
    if absent:
        for row, t in zip(*np.nonzero(terminated), strict=True):
            # PettingZoo's: an agent that has left is shown as terminated until its copy starts anew.
            valid[row, t + 1 : t + 3] = False
        terminated |= ~valid
        truncated &= valid
    rows, ends = np.nonzero(truncated)
    action = spec.spaces.action
    actions = random_actions(action, rng, size, steps)
    batch = Batch(
        batch_id=0,
        learner_step=0,
        observations=rng.normal(size=(size, steps + 1, OBSERVATION)).astype(np.float32),
        actions=actions,
        rewards=rng.normal(size=(size, steps)).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        behaviour_logits=rng.normal(size=(size, steps, action.num_parameters)).astype(np.float32),
        behaviour_value=np.zeros((size, steps), np.float32),
        core_state=rng.normal(size=(size, spec.core_state_size)).astype(np.float32),
        final_observations=rng.normal(size=(len(rows), OBSERVATION)).astype(np.float32),
        final_trajectory=rows.astype(np.int32),
        final_step=ends.astype(np.int32),
        policy_version=np.zeros(size, np.int64),
        fresh=np.ones(size, bool),
        discounted_return=np.zeros(size, np.float32),
    )
    return with_numbers(batch, action) if action.dimensions else batch


def with_numbers(batch: Batch, action: ActionSpace) -> Batch:
    """The batch with numbers that its behaviour policy drew; its deviations are half to twice of 1."""
    rows, actions = batch.behaviour_logits.copy(), batch.actions.copy()
    mean, log_std = np.split(rows[..., action.num_logits :], 2, -1)
    log_std[...] = 0.7 * np.tanh(log_std)
    actions[..., len(action.sizes) :] = mean + np.exp(log_std) * actions[..., len(action.sizes) :]
    return replace(batch, actions=actions, behaviour_logits=rows)


def random_actions(action: ActionSpace, rng: np.random.Generator, size: int, steps: int) -> Array:
    """`[size, steps]` of them, as actors record them."""
    columns: list[Array] = [rng.integers(0, n, (size, steps)) for n in action.sizes]
    columns += [rng.normal(size=(size, steps)) for _ in range(action.dimensions)]
    rows = np.stack(columns, -1).astype(action.dtype)
    return rows if action.factored else rows[..., 0].copy()


def rows_of(batch: Batch, rows: Array) -> Batch:
    """The batch of these trajectories, in this order."""
    names = "observations actions rewards terminated truncated valid behaviour_logits behaviour_value core_state"
    others = ("policy_version", "fresh", "discounted_return")
    taken = {name: getattr(batch, name)[rows].copy() for name in (*names.split(), *others)}
    place = {int(old): new for new, old in enumerate(rows)}
    kept = np.array([row in place for row in batch.final_trajectory], bool)
    return replace(
        batch,
        **taken,
        importance=None if batch.importance is None else batch.importance[rows],
        final_observations=batch.final_observations[kept],
        final_trajectory=np.array([place[int(row)] for row in batch.final_trajectory[kept]], np.int32),
        final_step=batch.final_step[kept],
    )


def inputs_of(updater: Updater, batch: Batch) -> dict[str, Tensor]:
    """The batch as the plan reads it."""
    context = updater.context
    factor = 1.0 if context.reward_scale is None else context.reward_scale.factor
    return cast("dict[str, Tensor]", to_inputs(batch, context.model.spec, context.trainer, CPU, reward_factor=factor))


def learn(updater: Updater, batch: Batch, *, learning_rate: float = 1e-2, report: bool = True) -> Record:
    """One learner step."""
    return updater.learn(inputs_of(updater, batch), learning_rate=learning_rate, report=report)


def weigh(updater: Updater, values: Mapping[str, Tensor]) -> Weighed:
    """The objective of a prepared batch as one minibatch, with its graph."""
    minibatch = updater.objective.minibatch(values, torch.arange(len(values["mask_BT"])))
    return updater.objective.weigh(minibatch, model_outputs(updater.wrapped, minibatch, updater.plan.needs))


def parameters_of(updater: Updater) -> dict[str, Array]:
    """Copies of everything that a learner step may change, by name."""
    context = updater.context
    arrays = {f"model.{name}": value.detach().numpy().copy() for name, value in context.model.named_parameters()}
    arrays |= {f"prior.{name}": value.detach().numpy().copy() for name, value in context.prior.named_parameters()}
    for position, state in updater.optimizer.state().items():
        arrays |= {f"optimizer.{position}.{name}": value.numpy().copy() for name, value in state.items()}
    return arrays


def assert_same_arrays(first: Mapping[str, Array], second: Mapping[str, Array]) -> None:
    """To the bit, name by name."""
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
