"""The cost of a plan: the parameters that each loss trains, and the floating-point operations of a batch by node.

The numbers are counted, not estimated: the plan's nodes and network process one artificial trajectory
while torch counts matrix products and convolutions. Look-ups, activations and reductions are not
counted. All counts are proportional to the number of trajectories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from agent.model import AgentModel, ModelNeeds, prior_of
from agent.policies import Policies
from agent.spec import AgentSpec
from learner.advantage_scale import AdvantageScale
from learner.loss import Context
from learner.nodes.network import BatchInputs, Forward, Unroll
from learner.plan import Plan
from learner.ranks.reduce import OneRank
from learner.settings import TrainerSettings
from learner.update.forward import model_outputs
from learner.update.objective import Objective
from learner.update.updater import freeze_unused
from learner.update.warm_start import freeze
from protocol.data.observations import each, zeros


@dataclass(frozen=True)
class PlanCost:
    """The cost of a plan.

    Attributes:
        parameters: the number of trained parameters.
        trained: the number of parameters that get a gradient from each loss.
        flops: the operations of one batch over all ranks, by node: `prepare` once, and the forward and
            backward passes of every epoch.
        coefs: the coefficients of every loss's terms.
    """

    parameters: int
    trained: Mapping[str, int]
    flops: Mapping[str, int]
    coefs: Mapping[str, Mapping[str, float]]


@torch.random.fork_rng()
def plan_cost(plan: Plan, spec: AgentSpec, trainer: TrainerSettings, *, unroll_length: int) -> PlanCost:
    """Run a plan on one trajectory and count parameters and operations.

    Args:
        plan: the losses and nodes in order.
        spec: the network's specification.
        trainer: the learner's settings.
        unroll_length: T, the env steps of a trajectory.
    """
    context = make_context(spec, trainer)
    freeze_unused(context.model, plan)
    freeze(context.model, trainer.freeze_parts)
    objective = Objective(plan, context)
    values, flops = count_prepare(objective, one_trajectory(spec, unroll_length))
    minibatch = objective.minibatch(values, torch.arange(1))
    root, _ = count_passes(context.model, minibatch, ModelNeeds())
    whole, losses = count_passes(context.model, minibatch, plan.needs, objective)
    flops[Forward.name] = flops.get(Forward.name, 0) + trainer.epochs * root
    if Unroll.name in plan.order:
        flops[Unroll.name] = trainer.epochs * (whole - root)
    parameters = [parameter for parameter in context.model.parameters() if parameter.requires_grad]
    coefs: dict[str, dict[str, float]] = {}
    for (loss, term), coef in objective.coefs.items():
        coefs.setdefault(loss, {})[term] = coef
    return PlanCost(
        parameters=sum(parameter.numel() for parameter in parameters),
        trained={name: reached(loss, parameters) for name, loss in losses.items()},
        flops={name: trainer.batch_size * flops.get(name, 0) for name in plan.order},
        coefs=coefs,
    )


def make_context(spec: AgentSpec, trainer: TrainerSettings) -> Context:
    """A context with newly initialised networks and one rank."""
    model = AgentModel(spec)
    reducer = OneRank()
    return Context(
        trainer=trainer,
        model=model,
        prior=prior_of(model),
        reducer=reducer,
        advantage_scale=AdvantageScale(*trainer.losses.sigma, reducer),
        generator=torch.Generator().manual_seed(0),
    )


def one_trajectory(spec: AgentSpec, steps: int) -> BatchInputs:
    """An artificial trajectory without an end; observations are not 0, because padding is."""
    action = spec.spaces.action
    generator = torch.Generator().manual_seed(0)

    def observations(count: int) -> Any:
        return each(
            lambda values: torch.randint(1, 9, values.shape, generator=generator).to(torch.from_numpy(values).dtype),
            zeros(spec.spaces.observation, 1, count),
        )

    actions = torch.zeros(1, steps, *action.shape, dtype=getattr(torch, action.dtype))
    no = torch.zeros(1, steps, dtype=torch.bool)
    return {
        "observations_BT1": observations(steps + 1),
        "core_state_BS": torch.zeros(1, spec.core_state_size),
        "actions_BT": actions,
        "rewards_BT": torch.rand(1, steps, generator=generator),
        "terminated_BT": no,
        "truncated_BT": no,
        "mask_BT": ~no,
        "behaviour_log_probs_BTA": Policies(action, spec.settings.squash).normalise(
            torch.zeros(1, steps, action.num_parameters)
        ),
        "final_observations": observations(0)[0],
        "final_trajectory": torch.zeros(0, dtype=torch.long),
        "final_step": torch.zeros(0, dtype=torch.long),
        "fresh_B": torch.ones(1, dtype=torch.bool),
    }


@torch.no_grad()
def count_prepare(objective: Objective, inputs: BatchInputs) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Run every node's `prepare` in order; returns all values and each node's operations."""
    values: dict[str, Tensor] = {**inputs}  # type: ignore[dict-item]
    flops = {}
    for node in objective.nodes:
        if hasattr(node, "prepare"):
            with FlopCounterMode(display=False) as counter:
                values.update(node.prepare(**objective.select(values, node, "prepare")))
            flops[node.name] = counter.get_total_flops()
    return values, flops


def count_passes(
    model: AgentModel, minibatch: Mapping[str, Tensor], needs: ModelNeeds, objective: Objective | None = None
) -> tuple[int, dict[str, Tensor]]:
    """Count a forward pass and the backward pass through all of its outputs.

    Returns:
        The operations and, if an objective is given, the weighted losses.
    """
    with FlopCounterMode(display=False) as counter:
        outputs = model_outputs(model, minibatch, needs)
        total = torch.stack([output.sum() for output in cast("Mapping[str, Tensor]", outputs).values()]).sum()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(total, trained, allow_unused=True, retain_graph=True)
    return counter.get_total_flops(), objective.weigh(minibatch, outputs).losses if objective else {}


def reached(loss: Tensor, parameters: list[torch.nn.Parameter]) -> int:
    """The number of parameters that get a gradient from a loss."""
    if not loss.requires_grad:
        return 0
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return sum(p.numel() for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None)
