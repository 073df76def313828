"""The cost of a plan: the parameters that each loss trains, and the floating-point operations of a batch by node.

The numbers are counted, not estimated: one artificial trajectory goes through the real nodes and the real network while torch
counts matrix products and convolutions. Look-ups, activations and reductions are not counted. All counts are proportional to
the number of trajectories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from agent import distribution
from agent.model import AgentModel, ModelNeeds, prior_of
from agent.spec import AgentSpec
from learner.distributed import OneRank
from learner.loss import Context
from learner.nodes.network import BatchInputs, Forward, Unroll
from learner.normaliser import Normaliser
from learner.plan import Plan
from learner.settings import TrainerSettings
from learner.update.objective import Objective, model_outputs
from learner.update.updater import freeze_unused


@dataclass(frozen=True)
class PlanCost:
    """The cost of a plan.

    Attributes:
        parameters: that are trained.
        trained: of them, how many each loss reaches with a gradient.
        flops: of one batch over all ranks, by node: `prepare` once, and forward and backward passes in every epoch.
        coefs: of every loss's terms.
    """

    parameters: int
    trained: Mapping[str, int]
    flops: Mapping[str, int]
    coefs: Mapping[str, Mapping[str, float]]


@torch.random.fork_rng()
def plan_cost(plan: Plan, spec: AgentSpec, trainer: TrainerSettings, *, unroll_length: int) -> PlanCost:
    """Send one trajectory through a plan and count.

    Args:
        plan: the losses and their nodes in order.
        spec: the network's.
        trainer: batch size and epochs.
        unroll_length: T.
    """
    context = make_context(spec, trainer)
    freeze_unused(context.model, plan)
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
    """Fresh networks on one rank."""
    model = AgentModel(spec)
    reducer = OneRank()
    return Context(
        trainer=trainer,
        model=model,
        prior=prior_of(model),
        reducer=reducer,
        normaliser=Normaliser(*trainer.losses.sigma, reducer),
        generator=torch.Generator().manual_seed(0),
    )


def one_trajectory(spec: AgentSpec, steps: int) -> BatchInputs:
    """A made-up trajectory without an episode end; observations are not zero, for zeros are what padding is made of."""
    observation, action = spec.spaces.observation, spec.spaces.action
    dtype = getattr(torch, observation.dtype)
    generator = torch.Generator().manual_seed(0)

    def observations(count: int) -> Tensor:
        return torch.randint(1, 9, (1, count, *observation.shape), generator=generator).to(dtype)

    choices = torch.zeros(1, steps, len(action.sizes), dtype=torch.int32)
    no = torch.zeros(1, steps, dtype=torch.bool)
    return {
        "observations_BT1": observations(steps + 1),
        "core_state_BS": torch.zeros(1, spec.core_state_size),
        "actions_BT": choices if action.factored else choices[..., 0],
        "rewards_BT": torch.rand(1, steps, generator=generator),
        "terminated_BT": no,
        "truncated_BT": no,
        "mask_BT": ~no,
        "behaviour_log_probs_BTA": distribution.log_softmax(torch.zeros(1, steps, action.num_logits), action.sizes),
        "final_observations": observations(0)[0],
        "final_trajectory": torch.zeros(0, dtype=torch.long),
        "final_step": torch.zeros(0, dtype=torch.long),
    }


@torch.no_grad()
def count_prepare(objective: Objective, inputs: BatchInputs) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Run every node's `prepare` in order: all values, and what each node took."""
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
    """One forward pass and the way back through all that it gave; the weighted losses too if an objective is given."""
    with FlopCounterMode(display=False) as counter:
        outputs = model_outputs(model, minibatch, needs)
        total = torch.stack([output.sum() for output in cast("Mapping[str, Tensor]", outputs).values()]).sum()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(total, trained, allow_unused=True, retain_graph=True)
    return counter.get_total_flops(), objective.weigh(minibatch, outputs).losses if objective else {}


def reached(loss: Tensor, parameters: list[torch.nn.Parameter]) -> int:
    """How many parameters a loss has a gradient for."""
    if not loss.requires_grad:
        return 0
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return sum(p.numel() for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None)
