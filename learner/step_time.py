"""How long a learner step takes on this machine's CPU, by doing a part of one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from torch import Tensor

from agent.spec import AgentSpec
from learner.cost import make_context, one_trajectory
from learner.device import in_bfloat16
from learner.plan import Plan
from learner.settings import TrainerSettings
from learner.update.forward import model_outputs
from learner.update.minibatches import updates_per_prepare
from learner.update.objective import Objective
from learner.update.updater import freeze_unused
from learner.update.warm_start import freeze
from protocol.data.observations import each

SAMPLE_S = 0.5
"""Each of the timed passes takes about so long at most, unless one trajectory alone takes longer."""


@torch.random.fork_rng()
def step_seconds(plan: Plan, spec: AgentSpec, trainer: TrainerSettings, *, unroll_length: int, threads: int) -> float:
    """Time artificial trajectories through `prepare` and one update, and scale to a learner step of one rank.

    Processor time is counted, so the result is for cores that nobody else uses. The optimiser's own time and waiting for
    batches are left out.

    Args:
        plan: the losses and their nodes in order.
        spec: the network's specification.
        trainer: has batch size, epochs, minibatches, ranks and precision.
        unroll_length: T.
        threads: of a rank.
    """
    context = make_context(spec, trainer)
    context.model.in_bfloat16 = in_bfloat16(trainer.precision, torch.device("cpu"), context.model)
    freeze_unused(context.model, plan)
    freeze(context.model, trainer.freeze_parts)
    objective = Objective(plan, context)
    one = cast("dict[str, Tensor]", one_trajectory(spec, unroll_length))
    batch = trainer.batch_size / trainer.learners
    with computing_with(threads):
        first = sum(pass_seconds(objective, plan, one, rows=1))
        rows = max(1, min(round(SAMPLE_S / first), int(batch / trainer.minibatches)))
        prepare, update = map(min, zip(*(pass_seconds(objective, plan, one, rows=rows) for _ in range(2)), strict=True))
    updates = trainer.epochs * trainer.minibatches
    prepares = math.ceil(
        updates / updates_per_prepare(trainer.prepare_every, epochs=trainer.epochs, minibatches=trainer.minibatches)
    )
    seconds: float = (prepares * prepare + trainer.epochs * update) * batch / rows / threads
    return seconds


def pass_seconds(objective: Objective, plan: Plan, one: dict[str, Tensor], *, rows: int) -> tuple[float, float]:
    """The processor time of `prepare`, and of an update's way forward and back, for copies of one trajectory."""
    inputs = {name: each(partial(copies, rows=rows), value) for name, value in one.items()}
    started = time.process_time()
    values = objective.prepare(inputs)
    prepared = time.process_time()
    # Updates with and without the dynamics model (`dynamics.update_every`).
    updates = min(objective.unroll_every, objective.context.trainer.minibatches)
    for minibatch in objective.minibatches(objective.trajectories(values), [torch.arange(rows)] * updates):
        outputs = model_outputs(objective.context.model, minibatch, plan.needs)
        objective.weigh(minibatch, outputs).total.backward()  # type: ignore[no-untyped-call]
    return prepared - started, (time.process_time() - prepared) / updates


def copies(values: Tensor, rows: int) -> Tensor:
    """Repeat the rows of a tensor along its first axis."""
    return values.repeat(rows, *[1] * (values.ndim - 1))


@contextmanager
def computing_with(number: int) -> Iterator[None]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
