"""What a learner process is given, and the networks that it makes of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agent.model import AgentModel, prior_of
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from learner.distributed import Ranks
from learner.loss import Context
from learner.normaliser import Normaliser
from learner.plan import make_plan
from learner.running_statistics import RewardScale
from learner.settings import TrainerSettings
from learner.update.updater import Updater, freeze_unused
from oatmill.errors import UserError
from oatmill.settings.base import MetricsSettings
from protocol.security.keys import ClientKeys


@dataclass(frozen=True)
class LearnerConfig:
    """Everything that a learner process is given.

    Attributes:
        trainer: the update and its losses.
        agent: the network.
        metrics: what is reported.
        joining: the settings that must agree with the run's server.
        address: the run's control address.
        run_dir: where reports and checkpoints go.
        resume: start from the newest checkpoint.
        settings: all of the run's, as config.yaml has them; every checkpoint takes them along.
        keys: what the server asks for; None for a server without keys.
    """

    trainer: TrainerSettings
    agent: AgentSettings
    metrics: MetricsSettings
    joining: Mapping[str, Any]
    address: str
    run_dir: Path
    resume: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    keys: ClientKeys | None = None


def make_updater(config: LearnerConfig, spec: AgentSpec, ranks: Ranks) -> Updater:
    """The networks, alike on all ranks, and what updates them."""
    trainer = config.trainer
    torch.manual_seed(trainer.seed)
    plan = make_plan(trainer, config.agent, spec.spaces.action)
    model = AgentModel(spec).to(ranks.device)
    prior = prior_of(model)
    freeze_unused(model, plan)
    context = Context(
        trainer=trainer,
        model=model,
        prior=prior,
        reducer=ranks.reducer,
        normaliser=Normaliser(*trainer.losses.sigma, ranks.reducer),
        generator=torch.Generator(ranks.device).manual_seed(trainer.seed + 1 + ranks.rank),
        reward_scale=RewardScale(trainer.discount, ranks) if trainer.normalise_rewards else None,
    )
    if trainer.compile:
        compile_network(model)
    return Updater(plan, context, ranks.wrap(model), config.metrics)


def compile_network(model: nn.Module) -> None:
    """Have the forward pass and its way back compiled at the first call, for the device where the network lies.

    Raises:
        UserError: if this machine has no C++ compiler, which torch.compile takes to the CPU's code and Triton to the GPU's.
    """
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    if not any(map(shutil.which, compilers)):
        raise UserError(
            f"trainer.compile needs a C++ compiler where the learner runs, and none of {', '.join(compilers)} is there; "
            f"install one, or leave trainer.compile at false"
        )
    import torch._functorch.config as compiled  # noqa: PLC0415  (imports the compiler, a second of a start)

    # Each loss's gradient is taken through the compiled way back before the sum's is: its buffers are still needed then.
    compiled.donated_buffer = False
    model.compile()
