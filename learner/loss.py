"""The interface of a loss: a plug-in whose signatures say what it reads and writes.

A node of the plan has `prepare`, `compute`, or both. `prepare` runs once per batch, without gradient, and returns a TypedDict
that does not change afterwards. `compute` runs for each minibatch and returns terms. Both take keyword-only tensors: the
parameters' names are what the node reads, and the keys of `prepare`'s TypedDict are what it writes.
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
from agent.settings import AgentSettings
from learner.distributed import Reducer
from learner.loss_descriptor import LossDescriptor
from learner.normaliser import Normaliser
from learner.running_statistics import RewardScale
from learner.settings import TrainerSettings
from protocol.data.spaces import ActionSpace


@dataclass(frozen=True)
class Term:
    """One term of the objective, unweighted and unreduced.

    Attributes:
        value: any shape, with the minibatch's rows first; rows that were sampled by priority may get a lower weight.
        mask: the same shape, bool; False where the value does not count (it may be NaN there).
        coef: the coefficient of its masked mean.
    """

    value: Tensor
    mask: Tensor
    coef: float


def itself(value: Tensor) -> Tensor:
    """Return the value; for `Statistic.later` where nothing has to be computed."""
    return value


class Statistic:
    """A number that is reported as its masked mean and adds nothing to the objective.

    Args:
        value: any shape, without gradient.
        mask: the same shape, bool.

    Attributes:
        function: computes the value from `inputs`.
        inputs: the arguments of `function`.
        counted: the mask of all of the function's values.
        last: the entry of the last axis that counts; None for all of them.
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
        """A statistic that is computed once for many minibatches, from the inputs that each of them left.

        Use it if the value needs operations of its own: a minibatch of a small network takes about a millisecond, so a few
        more operations on so little data are noticeable.

        Args:
            function: returns the values. It gets the rows of several minibatches, so no row may depend on another.
            inputs: its arguments, with the minibatch's rows in front and without gradient.
            mask: where the function's values count, bool.
            last: the entry of the last axis of values and mask that counts; None for all of them.
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
"""Reported for every loss, next to its terms and statistics, so none of those may have such a name."""


@dataclass(frozen=True)
class Context:
    """What a node may need besides the tensors that it reads.

    Attributes:
        trainer: the learner's settings.
        model: the network that is trained.
        prior: the prior network, a slow average of `model`.
        reducer: sums over ranks.
        normaliser: the running scale of returns.
        generator: the random numbers for drawing actions; its state is saved in checkpoints.
        scales: a factor on each loss's coefficients; 1 for a loss without an entry. Only steering changes it.
        reward_scale: the running deviation of the discounted return; None unless `trainer.normalise_rewards` is true.
    """

    trainer: TrainerSettings
    model: AgentModel
    prior: AgentModel
    reducer: Reducer
    normaliser: Normaliser
    generator: torch.Generator
    scales: dict[str, float] = field(default_factory=dict)
    reward_scale: RewardScale | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of choices of each factor of an action."""
        return self.model.sizes

    @property
    def factored(self) -> bool:
        """Whether an action consists of several choices."""
        return self.model.factored

    @property
    def codec(self) -> ValueCodec:
        """How value and reward heads encode numbers."""
        return self.model.codec


class Node:
    """A step of the plan. Subclasses define one or more of `prepare`, `measure` and `compute`.

    `measure` has the same kind of parameters as `prepare`. It runs only in learner steps that are reported, and returns
    statistics of the whole batch.
    """

    name: ClassVar[str]
    minibatch_writes: ClassVar[type | None] = None
    """A TypedDict of the outputs of the model's forward pass, for the nodes that represent it."""

    def __init__(self, context: Context) -> None:
        """Store what the node needs. Called once, before the first batch."""


class Loss(Node):
    """A node with `compute`, which returns terms by name.

    Each loss's `compute` has its own signature: the keyword-only tensors that the loss reads.
    """

    compute: Callable[..., Terms]


@dataclass(frozen=True)
class Question:
    """What a loss's `choose` gets to decide on, before the run starts."""

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
        descriptor: what tools should know about the loss; None for a built-in loss, or for the defaults.
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
