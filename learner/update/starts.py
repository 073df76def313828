"""A random part of a minibatch's steps, from which the dynamics model is unrolled (`dynamics.start_fraction`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_type_hints

import torch
from torch import Tensor

from agent.model import UnrollOutputs
from learner.loss import Node, Statistic, Term, method_reads
from learner.update.single_steps import by_step

UNROLLED = frozenset(get_type_hints(UnrollOutputs))
"""The names of the dynamics model's outputs."""


def reads_unroll(loss: Node) -> bool:
    """Whether a loss reads the dynamics model's outputs."""
    return bool(method_reads(type(loss), "compute") & UNROLLED)


def draw(mask_BT: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Draw M = fraction * B * T different positions b * T + t, at least one; all are equally likely."""
    number = max(1, round(fraction * mask_BT.numel()))
    return torch.randperm(mask_BT.numel(), generator=generator, device=mask_BT.device)[:number]


class Starts:
    """Takes a loss's tensors at the drawn starts, and weighs its terms.

    A term's sum over the drawn starts, times B * T / M, is divided by the number of all unmasked values of the
    minibatch. Each start is drawn with probability M / (B * T), so the expected value and gradient are those without
    drawing. A mean over the drawn values would be biased where starts have different numbers of unmasked model steps.

    Args:
        positions: the result of `draw`.
        mask_BT: the minibatch's mask.
    """

    def __init__(self, positions: Tensor, mask_BT: Tensor) -> None:
        self.positions = positions
        self.steps = mask_BT.shape[1]
        self.factor = mask_BT.numel() / len(positions)
        self.whole: dict[int, Tensor] = {}
        """For the ids of tensors in `drawn`: the tensors they were taken from."""
        self.drawn: dict[str, Tensor] = {}

    def select(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors with the axes `[M, 1]` in the place of `[B, T]`; outputs of the model have these already."""
        return {name: value if name in UNROLLED else self.at(name, value) for name, value in values.items()}

    def at(self, name: str, value: Tensor) -> Tensor:
        """A tensor at the starts; taken once for all losses. The end of its name tells its axes, as in `by_step`."""
        if name not in self.drawn:
            taken = value if value.ndim == 0 else by_step(name, value, self.steps)[self.positions]
            self.drawn[name] = taken
            self.whole[id(taken)] = value
        return self.drawn[name]

    def expanded(self, entry: Term | Statistic) -> Term | Statistic:
        """The entry, with values that sum up to those of all starts in expectation.

        A mask that the loss computes itself has no counterpart for all starts; its mean is over the drawn values.
        """
        if id(entry.mask) not in self.whole:
            return entry
        if isinstance(entry, Term):
            return Term(entry.value * self.factor, entry.mask, entry.coef)
        return Statistic(entry.value * self.factor, entry.mask)
