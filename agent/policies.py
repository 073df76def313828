"""Policies over any action space: everything that is computed from the policy head's output.

A policy is a row: the logits of all choices, factor after factor, then the means of the action's
numbers, then the logarithms of their standard deviations. Factors and numbers are independent, so
log-probabilities, entropies and KLs are sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agent import distribution, gaussian
from protocol.data.spaces import ActionSpace

LARGEST_LOG_RATIO = 60.0


class Policies:
    """The policies over one action space.

    Args:
        action: the action space.
        squash: how a sampled number is brought into -1..1: `tanh` or `clip`.

    Attributes:
        sizes: the number of choices of each factor.
        factored: whether an action is a row.
        dimensions: the number of continuous numbers in an action.
    """

    def __init__(self, action: ActionSpace, squash: str) -> None:
        self.sizes = action.sizes
        self.factored = action.factored
        self.dimensions = action.dimensions
        self.squash = squash
        self._logits = action.num_logits

    def normalise(self, rows_P: Tensor) -> Tensor:
        """Normalise the logits to log-probabilities, float32; means and log stds are not changed."""
        rows_P = rows_P.float()
        if not self.dimensions:
            return distribution.log_softmax(rows_P, self.sizes)
        if not self.sizes:
            return rows_P
        logits_A, numbers_P = self._split(rows_P)
        return torch.cat([distribution.log_softmax(logits_A, self.sizes), numbers_P], -1)

    def log_prob(self, rows_P: Tensor, actions: Tensor) -> Tensor:
        """The joint log-probability of actions, `[...]`, in nats.

        Args:
            rows_P: normalised.
            actions: `[...]` or `[..., width]`; numbers as sampled, before squashing. Their log-densities are
                those before squashing, too.
        """
        if not self.dimensions:
            return distribution.log_prob(rows_P, actions, self.sizes, factored=self.factored)
        return self.factor_log_probs(rows_P, actions).sum(-1)

    def factor_log_probs(self, rows_P: Tensor, actions: Tensor) -> Tensor:
        """The log-probability of each choice and each number of actions, `[..., width]`."""
        logits_A, numbers_P = self._split(rows_P)
        columns_F, numbers_D = self._columns(actions)
        found = []
        if self.sizes:
            found.append(logits_A.expand(*columns_F.shape[:-1], -1).gather(-1, columns_F))
        if self.dimensions:
            found.append(gaussian.log_probs(numbers_P, numbers_D))
        return torch.cat(found, -1)

    def log_ratio(self, rows_P: Tensor, other_P: Tensor, actions: Tensor) -> Tensor:
        """The logarithm of the ratio of two policies' probabilities of actions, `[...]`."""
        if not self.dimensions:  # one look-up instead of two
            return distribution.log_prob(rows_P - other_P, actions, self.sizes, factored=self.factored)
        return (self.factor_log_probs(rows_P, actions) - self.factor_log_probs(other_P, actions)).sum(-1)

    def ratio(self, log_ratio: Tensor) -> Tensor:
        """The ratio; for numbers it is limited, so that the sum over a batch is finite in float32."""
        return (log_ratio.clamp(max=LARGEST_LOG_RATIO) if self.dimensions else log_ratio).exp()

    def entropy(self, rows_P: Tensor) -> Tensor:
        """The joint entropy, `[...]`, in nats; of numbers the differential one.

        With `tanh` it is the entropy of the number in -1..1 that the environment gets, at most log 2. With
        `clip` it is the entropy before clipping, because a clipped number has no density.
        """
        if not self.dimensions:
            return distribution.entropy(rows_P)
        logits_A, numbers_P = self._split(rows_P)
        of_numbers = gaussian.squashed_entropies if self.squash == "tanh" else gaussian.entropies
        return distribution.entropy(logits_A) + of_numbers(numbers_P).sum(-1)

    def drawn_entropy(self, rows_P: Tensor) -> Tensor:
        """The joint entropy of actions before squashing, which matches `log_prob`."""
        logits_A, numbers_P = self._split(rows_P)
        return distribution.entropy(logits_A) + gaussian.entropies(numbers_P).sum(-1)

    def kl(self, from_P: Tensor, to_P: Tensor) -> Tensor:
        """KL(from || to), `[...]`, in nats, in closed form; squashing does not change it. Both are normalised."""
        from_logits_A, from_numbers_P = self._split(from_P)
        logits_A, numbers_P = self._split(to_P)
        of_choices = (from_logits_A.exp() * (from_logits_A - logits_A)).sum(-1)
        return of_choices + gaussian.kls(from_numbers_P, numbers_P).sum(-1)

    def log_stds(self, rows_P: Tensor) -> Tensor:
        """The logarithms of the numbers' standard deviations, `[..., D]`."""
        return gaussian.parts(self._split(rows_P)[1])[1]

    def sample(self, rows_P: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sample an action per row: int64, or float32 if it has numbers, which are not squashed."""
        if not self.dimensions:
            return distribution.sample(rows_P, self.sizes, factored=self.factored, generator=generator)
        logits_A, numbers_P = self._split(rows_P)
        numbers_D = gaussian.sample(numbers_P, generator)
        if not self.sizes:
            return numbers_D
        choices_F = distribution.sample(logits_A, self.sizes, factored=True, generator=generator)
        return torch.cat([choices_F.to(numbers_D.dtype), numbers_D], -1)

    def mode(self, rows_P: Tensor) -> Tensor:
        """The most likely choices and the means of the numbers."""
        if not self.dimensions:
            return distribution.argmax(rows_P, self.sizes, factored=self.factored)
        logits_A, numbers_P = self._split(rows_P)
        mean_D = gaussian.parts(numbers_P)[0]
        if not self.sizes:
            return mean_D
        return torch.cat([distribution.argmax(logits_A, self.sizes, factored=True).to(mean_D.dtype), mean_D], -1)

    def indexed(self, actions: Tensor) -> Tensor:
        """Actions for the dynamics model: the columns of the choices, int64, or rows with columns and squashed numbers."""
        if not self.dimensions:
            return distribution.action_columns(actions, self.sizes, factored=self.factored)
        columns_F, numbers_D = self._columns(actions)
        squashed_D = torch.tanh(numbers_D) if self.squash == "tanh" else numbers_D.clamp(-1, 1)
        return torch.cat([columns_F.to(squashed_D.dtype), squashed_D], -1) if self.sizes else squashed_D

    def executed(self, actions: Tensor) -> Tensor:
        """Actions for the environment: numbers squashed into -1..1."""
        if not self.dimensions:
            return actions
        choices_F, numbers_D = actions[..., : len(self.sizes)], actions[..., len(self.sizes) :]
        squashed_D = torch.tanh(numbers_D) if self.squash == "tanh" else numbers_D.clamp(-1, 1)
        return torch.cat([choices_F, squashed_D], -1)

    def _split(self, rows_P: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of choices, and the means and log stds of numbers."""
        return rows_P[..., : self._logits], rows_P[..., self._logits :]

    def _columns(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The columns of the choices, int64, and the numbers."""
        if not self.dimensions:
            return distribution.action_columns(actions, self.sizes, factored=self.factored), actions[..., :0]
        choices_F, numbers_D = actions[..., : len(self.sizes)], actions[..., len(self.sizes) :]
        columns_F = distribution.action_columns(choices_F, self.sizes, factored=True) if self.sizes else choices_F.long()
        return columns_F, numbers_D
