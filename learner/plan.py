"""Turns settings into an ordered plan of nodes, before the run starts.

The nodes are sorted topologically by the names that they read and write; ties keep the order of
`supporting_nodes` and `LOSSES`. A node that is not a loss is part of the plan only if another node
reads one of its outputs. A name without a writer or with two writers, or a cycle of nodes, is an
error that names the nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import get_type_hints

from agent.model import ModelNeeds
from agent.settings import AgentSettings
from learner.loss import Choice, Loss, Node, Question, method_reads, node_reads, node_writes
from learner.loss_descriptor import LossDescriptor, describe
from learner.losses import cmpo, dynamics, muesli_model, muesli_pg, ppo_actor, ppo_critic
from learner.nodes.network import BatchInputs, Forward, Prior, Unroll
from learner.nodes.prior_q import AdvantageQ, AdvantageSamples, PriorQ, PriorSamples
from learner.nodes.returns import DrawnRetrace, GaeVtrace, Retrace
from learner.nodes.sigma import OneStepSigma, Sigma
from learner.settings import TrainerSettings
from learner.update.schedules import check_schedules
from oatmill.errors import SettingsError, UserError
from oatmill.user_modules import load_function
from protocol.data.spaces import ActionSpace

Choose = Callable[[Question], Choice | None]
"""A loss's `choose` function: it returns the class that the settings select, or None if the loss is
disabled."""

LOSSES: tuple[Choose, ...] = (
    ppo_critic.choose,
    cmpo.choose,
    ppo_actor.choose,
    muesli_pg.choose,
    dynamics.choose,
    muesli_model.choose,
)
"""The losses in the order in which they are applied. Add a new loss here."""

GRADIENT = "gradient"
"""Used in place of a loss's name if all losses are finite but the gradient is not."""
BATCH_NAMES = frozenset(get_type_hints(BatchInputs))


@dataclass(frozen=True)
class Plan:
    """The nodes of a learner step, in order.

    Attributes:
        nodes: the classes in the order in which they run.
        auto: the value chosen for each `auto`, by the setting's path.
        notes: what a user should know, one line each.
        needs: the outputs that the model's forward pass must return.
        descriptors: the losses' descriptors by name, in order.
    """

    nodes: tuple[type[Node], ...]
    auto: Mapping[str, str]
    notes: tuple[str, ...]
    needs: ModelNeeds
    descriptors: Mapping[str, LossDescriptor] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """The nodes' names in order."""
        return [node.name for node in self.nodes]

    @property
    def losses(self) -> list[str]:
        """The losses' names in order."""
        return [node.name for node in self.nodes if issubclass(node, Loss)]

    @property
    def reads(self) -> dict[str, list[str]]:
        """What each node reads from other nodes."""
        return {node.name: sorted(node_reads(node) - node_writes(node)) for node in self.nodes}

    @property
    def writes(self) -> dict[str, list[str]]:
        """What each node writes."""
        return {node.name: sorted(node_writes(node)) for node in self.nodes}

    @property
    def uses_prior(self) -> bool:
        """Whether a node reads the prior network."""
        return Prior.name in self.order


def make_plan(
    trainer: TrainerSettings,
    agent: AgentSettings,
    action: ActionSpace,
    *,
    losses: Sequence[Choose] = LOSSES,
) -> Plan:
    """Choose a class for every enabled loss, add the nodes that they read, and sort all nodes.

    Args:
        trainer: the learner's settings.
        agent: the network's settings.
        action: the environment's action space.
        losses: the built-in losses; the user's own losses come after them.

    Raises:
        SettingsError: if the settings contradict each other, or no loss is enabled.
        UserError: if the user's own loss cannot be loaded.
    """
    check(trainer)
    if trainer.shuffle == "steps" and agent.core != "none":
        raise SettingsError(
            f"trainer.shuffle=steps splits trajectories, but agent.core={agent.core} needs whole ones; set "
            "trainer.shuffle to trajectories or agent.core to none"
        )
    question = Question(trainer, agent, action)
    own = [own_loss(path) for path in trainer.extra_losses]
    choices = [choice for choose in (*losses, *own) if (choice := choose(question)) is not None]
    if not choices:
        raise SettingsError("every loss is disabled; enable at least trainer.losses.ppo_critic and trainer.losses.ppo_actor")
    chosen = [choice.loss for choice in choices]
    nodes = order([*supporting_nodes(chosen, trainer, action), *chosen])
    descriptors = describe((node.name for node in nodes if issubclass(node, Loss)), own_descriptors(choices))
    check_schedules(trainer, descriptors)
    plan = Plan(
        nodes=tuple(nodes),
        auto={path: value for choice in choices for path, value in choice.auto.items()},
        notes=(*returns_notes(trainer, action), *(note for choice in choices for note in choice.notes)),
        needs=model_needs(chosen, trainer),
        descriptors=descriptors,
    )
    if trainer.acting_network == "prior" and not plan.uses_prior:
        raise SettingsError(
            "trainer.acting_network=prior needs a loss with a prior network, such as trainer.losses.cmpo.enabled=true; enable "
            "one or set trainer.acting_network to trained"
        )
    return plan


def own_descriptors(choices: Iterable[Choice]) -> dict[str, LossDescriptor]:
    """The losses' own descriptors, by name.

    Raises:
        UserError: if a descriptor has another name than its loss.
    """
    found = {choice.loss.name: choice.descriptor for choice in choices if choice.descriptor is not None}
    for name, descriptor in found.items():
        if descriptor.name != name:
            raise UserError(f"the descriptor of the loss {name} is named {descriptor.name}; give both the same name")
    return found


def own_loss(path: str) -> Choose:
    """Load the `choose` function of the user's own loss, and check what it returns.

    Args:
        path: `module:choose`.
    """
    choose = load_function(path, what="trainer.extra_losses", gives="a learner.loss.Choice or None")

    def checked(question: Question) -> Choice | None:
        choice = choose(question)
        if choice is None or isinstance(choice, Choice):
            return choice
        raise UserError(f"trainer.extra_losses {path} must return a learner.loss.Choice or None, got {type(choice).__name__}")

    return checked


def check(trainer: TrainerSettings) -> None:
    """Raise a SettingsError for settings that contradict each other."""
    _ = trainer.discount
    if trainer.on_red_flag == "reduce" and trainer.balance == "gradient_share":
        raise SettingsError(
            "trainer.on_red_flag=reduce and trainer.balance=gradient_share both change the auxiliary losses' coefficients and "
            "would work against each other; set on_red_flag to warn or balance to none"
        )
    if trainer.returns == "retrace" and not trainer.losses.dynamics.predicts_q:
        raise SettingsError(
            "trainer.returns=retrace needs the dynamics model: trainer.losses.dynamics.enabled=true with both of its "
            "coefficients above 0; enable it or set trainer.returns to gae_vtrace"
        )


def returns_notes(trainer: TrainerSettings, action: ActionSpace) -> tuple[str, ...]:
    """Notes about how returns are computed."""
    if trainer.returns == "retrace" and action.dimensions:
        return (f"returns=retrace takes the mean q of {trainer.losses.prior_samples} sampled actions for the expected q",)
    if trainer.returns == "retrace" and action.factored and len(action.sizes) > 1:
        return ("returns=retrace with several factors uses the prior network's value instead of the expected q",)
    return ()


def supporting_nodes(losses: Sequence[type[Loss]], trainer: TrainerSettings, action: ActionSpace) -> list[type[Node]]:
    """The nodes whose outputs the losses or other nodes read. In ties they come before the losses."""
    returns: type[Node] = GaeVtrace
    if trainer.returns == "retrace":
        returns = DrawnRetrace if action.dimensions else Retrace
    candidates: list[type[Node]] = [Forward, Prior, PriorQ, PriorSamples, returns, Sigma, Unroll]
    if trainer.losses.dynamics.predicts_advantages:
        candidates = [Forward, Prior, OneStepSigma, AdvantageQ, AdvantageSamples, returns, Unroll]
    wanted = set().union(*(node_reads(loss) for loss in losses))
    taken: set[type[Node]] = set()
    while found := {node for node in candidates if node not in taken and node_writes(node) & wanted}:
        taken |= found
        wanted |= set().union(*(node_reads(node) for node in found))
    return [node for node in candidates if node in taken]


def order(nodes: Sequence[type[Node]]) -> list[type[Node]]:
    """Sort nodes so that each comes after the writers of what it reads; ties keep the given order.

    Raises:
        SettingsError: if two nodes have the same name, a name has no writer or two writers, or nodes
            depend on each other in a cycle.
    """
    for name, number in Counter(node.name for node in nodes).items():
        if number > 1 or name == GRADIENT:
            raise SettingsError(f"the name {name} is already used; rename your own loss")
    writer = writers(nodes)
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for position, node in enumerate(nodes):
        unknown = sorted(node_reads(node) - set(writer) - BATCH_NAMES)
        if unknown:
            raise SettingsError(f"{node.name} reads {', '.join(unknown)}, which no node writes; add a node that does")
        sorter.add(position, *{writer[name] for name in node_reads(node) if name in writer and writer[name] != position})
    try:
        sorter.prepare()
    except CycleError as error:
        names = " -> ".join(nodes[position].name for position in error.args[1])
        raise SettingsError(f"these nodes depend on each other in a cycle: {names}") from None
    ready: list[int] = []
    ordered: list[type[Node]] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()])
        position = ready.pop(0)
        ordered.append(nodes[position])
        sorter.done(position)
    return ordered


def writers(nodes: Iterable[type[Node]]) -> dict[str, int]:
    """The position of each name's writer."""
    found: dict[str, int] = {}
    nodes = list(nodes)
    for position, node in enumerate(nodes):
        for name in node_writes(node):
            if name in found or name in BATCH_NAMES:
                other = nodes[found[name]].name if name in found else "the batch"
                raise SettingsError(f"{name} has two writers, {other} and {node.name}; only one may write a name")
            found[name] = position
    return found


def model_needs(losses: Sequence[type[Loss]], trainer: TrainerSettings) -> ModelNeeds:
    """What the losses need from the model's forward pass; K is the largest number of steps that a loss needs."""
    read = set().union(*(method_reads(loss, "compute") for loss in losses))
    model_steps = trainer.losses.dynamics.unroll_steps if "model_reward_raw_BTK" in read else 0
    policy_steps = trainer.losses.policy_horizon if "model_logits_BTKA" in read else 0
    return ModelNeeds(
        unroll_steps=max(model_steps, policy_steps),
        policy_steps=policy_steps,
        rewards_and_values=model_steps > 0,
        gradient_scale=trainer.losses.dynamics.gradient_scale,
    )
