"""Ranks that train on their own for some updates and then average their weights (`trainer.average_every`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from learner.plan import GRADIENT
from learner.ranks.reduce import Reducer


class WeightAverage:
    """Averages arrays over all ranks after every N updates and at the end of each learner step.

    Between two averages, ranks have different weights: this is local SGD (Stich 2019, "Local SGD Converges Fast and
    Communicates Little", arXiv:1805.09767) with Adam, and not the same algorithm as averaging gradients.

    Args:
        every: N.
        reducer: sums over ranks.
        arrays: weights, the optimiser's moments and step count, and the prior network's weights; changed in place.
    """

    def __init__(self, every: int, reducer: Reducer, arrays: Sequence[Tensor]) -> None:
        self._every, self._reducer, self._arrays = every, reducer, arrays
        self._updates = 0

    def after_update(self) -> None:
        """Every rank must call this after each update, also after a skipped one."""
        self._updates += 1
        if self._updates % self._every == 0:
            self._average()

    def after_step(self, skipped: int, nonfinite: Mapping[str, int], losses: Sequence[str]) -> tuple[int, Counter[str]]:
        """Make the weights of all ranks equal.

        Args:
            skipped: the number of updates that this rank has skipped.
            nonfinite: the same by cause.
            losses: the losses' names, the same on all ranks.

        Returns:
            Both numbers over all ranks.
        """
        if self._updates % self._every:
            self._average()
        self._updates = 0
        names = [*losses, GRADIENT]
        own = [float(skipped), *(float(nonfinite.get(name, 0)) for name in names)]
        total, *causes = self._reducer.sum(torch.tensor(own, device=self._arrays[0].device)).tolist()
        return int(total), Counter({name: int(number) for name, number in zip(names, causes, strict=True) if number})

    def _average(self) -> None:
        joined = torch.cat([array.flatten() for array in self._arrays])
        mean = self._reducer.sum(joined) / self._reducer.world_size
        for array, part in zip(self._arrays, torch.split(mean, [array.numel() for array in self._arrays]), strict=True):
            array.copy_(part.view_as(array))
