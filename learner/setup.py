"""The configuration of a learner process, and the creation of its networks and updater."""

from __future__ import annotations

import logging
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
from learner.advantage_scale import AdvantageScale
from learner.device import in_bfloat16
from learner.loss import Context
from learner.plan import make_plan
from learner.ranks.reduce import Ranks
from learner.running_statistics import RewardScale
from learner.settings import TrainerSettings
from learner.update.updater import Updater, freeze_unused
from learner.update.warm_start import freeze, warm_start
from oatmill.errors import UserError
from oatmill.settings.base import MetricsSettings
from protocol.security.keys import ClientKeys

log = logging.getLogger("oatmill.learner")


@dataclass(frozen=True)
class LearnerConfig:
    """The configuration of a learner process.

    Attributes:
        trainer: the settings of updates and losses.
        agent: the settings of the network.
        metrics: the settings of reports.
        joining: the settings that must be equal to those of the run's server.
        address: the run's control address.
        run_dir: the folder for reports and checkpoints.
        resume: whether to start from the newest checkpoint.
        settings: all settings as in config.yaml; every checkpoint contains them.
        keys: the keys for the server; None for a server without keys.
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
    """Create the networks, with the same parameters on all ranks, and their updater."""
    trainer = config.trainer
    torch.manual_seed(trainer.seed)
    plan = make_plan(trainer, config.agent, spec.spaces.action)
    model = AgentModel(spec).to(ranks.device)
    if trainer.init_from is not None and not config.resume:
        log.info("%s", warm_start(model, trainer.init_from, partial=trainer.init_partial))
    model.in_bfloat16 = in_bfloat16(trainer.precision, ranks.device, model)
    prior = prior_of(model)
    freeze_unused(model, plan)
    freeze(model, trainer.freeze_parts)
    context = Context(
        trainer=trainer,
        model=model,
        prior=prior,
        reducer=ranks.reducer,
        advantage_scale=AdvantageScale(*trainer.losses.sigma, ranks.reducer),
        generator=torch.Generator(ranks.device).manual_seed(trainer.seed + 1 + ranks.rank),
        reward_scale=RewardScale(trainer.discount, ranks) if trainer.normalize_returns else None,
    )
    if trainer.compile:
        compile_network(model)
    return Updater(plan, context, ranks.wrap(model) if trainer.average_every == 1 else model, config.metrics)


def compile_network(model: nn.Module) -> None:
    """Compile a network with torch.compile; the compilation itself happens at the first call.

    Raises:
        UserError: if this machine has no C++ compiler, which torch.compile and Triton need.
    """
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    if not any(map(shutil.which, compilers)):
        raise UserError(
            f"trainer.compile=true needs a C++ compiler on the learner's machine, but none of {', '.join(compilers)} was "
            "found; install one, or set trainer.compile to false"
        )
    import torch._functorch.config as compiled  # noqa: PLC0415  (imports the compiler, which takes a second)

    # The backward pass may run for each loss before it runs for the sum, so its buffers must be kept.
    compiled.donated_buffer = False
    model.compile()
