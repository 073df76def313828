"""The interface of losses and other nodes of the plan.

A node has `prepare`, `compute`, or both. `prepare` runs once per batch, without gradient, and
returns a TypedDict that does not change afterwards. `compute` runs for each minibatch and returns
terms. Both take keyword-only tensors: the parameters' names are the names that the node reads, and
the keys of the TypedDict are the names that it writes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

import torch
from torch import Tensor

from agent.heads import ValueCodec
from agent.model import AgentModel
from agent.policies import Policies
from agent.settings import AgentSettings
from learner.advantage_scale import AdvantageScale
from learner.loss_descriptor import LossDescriptor
from learner.ranks.reduce import Reducer
from learner.running_statistics import RewardScale
from learner.settings import TrainerSettings
from protocol.data.spaces import ActionSpace


@dataclass(frozen=True)
class Term:
    """One term of the objective, unweighted and unreduced.

    Attributes:
        value: any shape, with the minibatch's rows as the first axis. The objective may weight rows
            that were sampled by priority.
        mask: bool, the same shape. Masked values may be NaN.
        coef: the coefficient of the masked mean.
    """

    value: Tensor
    mask: Tensor
    coef: float


def itself(value: Tensor) -> Tensor:
    """Return the value; for `Statistic.later` if nothing has to be computed."""
    return value


class Statistic:
    """A number that is reported as its masked mean and is not part of the objective.

    Args:
        value: any shape, without gradient.
        mask: bool, the same shape.

    Attributes:
        function: computes the value from `inputs`.
        inputs: the arguments of `function`.
        counted: the mask of all of the function's values.
        last: the index on the last axis that is reported; None for all of it.
        late: whether the value is computed once for many minibatches.
    """

    __slots__ = ("counted", "function", "inputs", "last", "late")

    def __init__(self, value: Tensor, mask: Tensor) -> None:
        self.function: Callable[..., Tensor] = itself
        self.inputs: tuple[Tensor, ...] = (value,)
        self.counted = mask
        self.last: int | None = None
        self.late = False

    @classmethod
    def later(
        cls, function: Callable[..., Tensor], inputs: tuple[Tensor, ...], mask: Tensor, *, last: int | None = None
    ) -> Statistic:
        """A statistic that is computed once for many minibatches, from the inputs of each of them.

        Use it if the value needs additional operations: a minibatch of a small network takes about a
        millisecond, so that a few more operations are noticeable.

        Args:
            function: returns the values. It gets the rows of several minibatches, so a row's value must
                not depend on other rows.
            inputs: the function's arguments, without gradient, with the rows as the first axis.
            mask: the mask of the function's values, bool.
            last: the index on the last axis of values and mask that is reported; None for all of it.
        """
        made = cls(inputs[0], mask)
        made.function, made.inputs, made.last, made.late = function, inputs, last, True
        return made

    @property
    def value(self) -> Tensor:
        """The values of this minibatch."""
        value = self.function(*self.inputs)
        return value if self.last is None else value[..., self.last]

    @property
    def mask(self) -> Tensor:
        """The mask of these values, bool."""
        return self.counted if self.last is None else self.counted[..., self.last]


Terms = Mapping[str, Term | Statistic]
OWN_NUMBERS = ("raw", "coef", "weighted", "share", "gradient_norm", "gradient_share", "gradient_cosine")
"""Numbers that are reported for every loss; its terms and statistics must have other names."""


@dataclass(frozen=True)
class Context:
    """The objects that a node may use besides the tensors that it reads.

    Attributes:
        trainer: the learner's settings.
        model: the trained network.
        prior: the prior network, an exponential moving average of `model`.
        reducer: sums over ranks.
        advantage_scale: the running scale of advantages, sigma.
        generator: the random number generator for sampling actions; checkpoints save its state.
        scales: a factor on each loss's coefficients, 1 if missing. Only steering changes it.
        scheduled: a factor on coefficients, by loss and term (`learner.update.schedules`), 1 if missing.
        reward_scale: the running deviation of the discounted return; None unless
            `trainer.normalize_returns` is true.
    """

    trainer: TrainerSettings
    model: AgentModel
    prior: AgentModel
    reducer: Reducer
    advantage_scale: AdvantageScale
    generator: torch.Generator
    scales: dict[str, float] = field(default_factory=dict)
    scheduled: dict[tuple[str, str], float] = field(default_factory=dict)
    reward_scale: RewardScale | None = None

    @property
    def policies(self) -> Policies:
        """What can be computed of a policy, for any action space."""
        return self.model.policies

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of choices of each factor of an action."""
        return self.model.sizes

    @property
    def factored(self) -> bool:
        """Whether an action is an array with one entry per factor."""
        return self.model.factored

    @property
    def codec(self) -> ValueCodec:
        """The encoding of the value and reward heads' outputs."""
        return self.model.codec


class Node:
    """A step of the plan. Subclasses define one or more of `prepare`, `measure` and `compute`.

    `measure` has the same kind of parameters as `prepare`. It runs only in reported learner steps and
    returns statistics of the whole batch.
    """

    name: ClassVar[str]
    minibatch_writes: ClassVar[type | None] = None
    """For nodes that represent the model's forward pass: a TypedDict of its outputs."""
    anchors: ClassVar[tuple[str, ...]] = ()
    """What `prepare` writes and is kept for all updates of a batch, also if `trainer.prepare_every` runs it again."""

    def __init__(self, context: Context) -> None:
        """Store what the node needs. Called once, before the first batch."""


class Loss(Node):
    """A node with `compute`, which returns terms by name.

    Each loss's `compute` has its own signature: the keyword-only tensors that the loss reads.
    """

    compute: Callable[..., Terms]


@dataclass(frozen=True)
class Question:
    """The argument of a loss's `choose`: the settings and the action space."""

    trainer: TrainerSettings
    agent: AgentSettings
    action: ActionSpace


@dataclass(frozen=True)
class Choice:
    """The class that `choose` selects for a loss.

    Attributes:
        loss: the class.
        auto: the value chosen for each `auto`, by the setting's path.
        notes: what a user should know about the choice, one line each.
        descriptor: the loss's descriptor; None for a built-in loss, or for the defaults.
    """

    loss: type[Loss]
    auto: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    descriptor: LossDescriptor | None = None


def method_reads(owner: type, method: str) -> frozenset[str]:
    """The keyword-only parameters of a node's method; empty if it has no such method."""
    function = getattr(owner, method, None)
    if function is None:
        return frozenset()
    parameters = inspect.signature(function).parameters.values()
    return frozenset(parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY)


def node_reads(owner: type) -> frozenset[str]:
    """The names that a node reads in any of its methods."""
    return method_reads(owner, "prepare") | method_reads(owner, "measure") | method_reads(owner, "compute")


def node_writes(owner: type) -> frozenset[str]:
    """The names that a node writes: the keys of `prepare`'s TypedDict, and the outputs of `minibatch_writes`."""
    written: set[str] = set()
    prepare = getattr(owner, "prepare", None)
    if prepare is not None:
        written |= set(get_type_hints(get_type_hints(prepare)["return"]))
    minibatch: Any = getattr(owner, "minibatch_writes", None)
    if minibatch is not None:
        written |= set(get_type_hints(minibatch))
    return frozenset(written)
