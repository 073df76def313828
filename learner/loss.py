"""What a loss is: a plug-in whose signatures say what it reads and writes.

A node of the plan has `prepare` (once a batch, no gradient; returns the TypedDict that it writes, frozen from then on)
and/or `compute` (each minibatch; returns its terms). Both take keyword-only tensors by name: those names are its reads, the
keys of `prepare`'s TypedDict are its writes, so there is no list beside the code that could disagree with it.
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
from learner.loss_descriptor import LossDescriptor
from learner.normaliser import Normaliser
from learner.reduce import Reducer
from learner.settings import TrainerSettings
from protocol.data.spaces import ActionSpace


@dataclass(frozen=True)
class Term:
    """One summand of the objective, unweighted and unreduced.

    Attributes:
        value: any shape, the minibatch's rows in front: a row that was sampled by priority may count for less.
        mask: the same shape, bool; False where the value does not count (it may even be NaN there).
        coef: what its masked mean is multiplied by.
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
"""What is reported of every loss; beside them its terms and statistics lie flat, so none of those may have such a name."""


@dataclass(frozen=True)
class Context:
    """What a node may need to know besides the tensors that it reads.

    Attributes:
        trainer: the learner's settings.
        model: the network that is trained.
        prior: its slow average.
        reducer: sums over ranks.
        normaliser: the running scale of returns.
        generator: draws actions; its state is part of a checkpoint.
        scales: what a loss's coefficients are multiplied by; 1 where it has no entry. Only steering changes it.
    """

    trainer: TrainerSettings
    model: AgentModel
    prior: AgentModel
    reducer: Reducer
    normaliser: Normaliser
    generator: torch.Generator
    scales: dict[str, float] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The choices of each factor of an action."""
        return self.model.sizes

    @property
    def factored(self) -> bool:
        """Whether an action is a row of choices."""
        return self.model.factored

    @property
    def codec(self) -> ValueCodec:
        """How value and reward heads stand for numbers."""
        return self.model.codec


class Node:
    """A step of the plan. Subclasses define `prepare`, `measure`, `compute`, or several of them.

    `measure` takes the same kind of parameters as `prepare`, runs only in learner steps that are reported, and returns
    statistics of the whole batch.
    """

    name: ClassVar[str]
    minibatch_writes: ClassVar[type | None] = None
    """A TypedDict of what the model's forward pass gives in each minibatch, for the nodes that stand for it."""

    def __init__(self, context: Context) -> None:
        """Keep what the node needs; called once, before the first batch."""


class Loss(Node):
    """A node that has `compute`: it returns terms by name.

    `compute` takes the keyword-only tensors that the loss reads, so it has no signature in common with other losses.
    """

    compute: Callable[..., Terms]


@dataclass(frozen=True)
class Question:
    """What a loss's `choose` decides on, before anything is started."""

    trainer: TrainerSettings
    agent: AgentSettings
    action: ActionSpace


@dataclass(frozen=True)
class Choice:
    """The class that a loss's settings come to.

    Attributes:
        loss: its class.
        auto: what every `auto` came to, by the setting's path.
        notes: what a user should know about the choice, one line each.
        descriptor: what tools should know about the loss; None for a built-in loss, or for the defaults.
    """

    loss: type[Loss]
    auto: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    descriptor: LossDescriptor | None = None


def method_reads(owner: type, method: str) -> frozenset[str]:
    """The keyword-only parameters of a node's method; empty if it has none of that name."""
    function = getattr(owner, method, None)
    if function is None:
        return frozenset()
    parameters = inspect.signature(function).parameters.values()
    return frozenset(parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY)


def node_reads(owner: type) -> frozenset[str]:
    """Everything that a node reads, in any of its methods."""
    return method_reads(owner, "prepare") | method_reads(owner, "measure") | method_reads(owner, "compute")


def node_writes(owner: type) -> frozenset[str]:
    """The keys of the TypedDict that `prepare` returns, and what the node's forward pass gives in each minibatch."""
    written: set[str] = set()
    prepare = getattr(owner, "prepare", None)
    if prepare is not None:
        written |= set(get_type_hints(get_type_hints(prepare)["return"]))
    minibatch: Any = getattr(owner, "minibatch_writes", None)
    if minibatch is not None:
        written |= set(get_type_hints(minibatch))
    return frozenset(written)
