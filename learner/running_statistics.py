"""The statistics that observations and rewards are normalised by: gathered from each fresh step once, over all ranks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from agent.model import AgentModel
from agent.running_moments import RunningMoments
from learner.ranks.reduce import Ranks, Reducer
from oatmill.errors import UserError
from protocol.data.batch import Batch
from protocol.data.observations import parts_of
from protocol.data.trajectory import Array

log = logging.getLogger("oatmill.learner")


def merge_over_ranks(moments: RunningMoments, rows: Array, reducer: Reducer) -> None:
    """Take in the rows of all ranks. Every rank must call it, and all get the same moments.

    The mean of all rows is known before distances from it are squared: sums of squares of numbers around 1e6 would have no
    digits left for their variance.

    Args:
        moments: to be moved.
        rows: `[n, D]` of this rank; n may be 0.
        reducer: sums over ranks.
    """
    device = moments.count.device
    sums = np.concatenate([[len(rows)], rows.sum(0, dtype=np.float64)])
    total = reducer.sum(torch.from_numpy(sums).to(device))
    mean = total[1:] / total[0].clamp(min=1)
    distances = rows - mean.cpu().numpy()
    squares = np.einsum("nd,nd->d", distances, distances)
    moments.merge(total[0], mean, reducer.sum(torch.from_numpy(squares).to(device)))


class ObservationStatistics:
    """Moves a network's normaliser, if it has one, by each batch once.

    The statistics are a part of the policy, like its weights, and a version has both. A batch is trained with the statistics
    of the newest version, and moves them only afterwards: for a batch that this version collected, every importance ratio
    starts at 1. An older or replayed batch was acted with older statistics. The ratio to the present policy, statistics
    included, is right as well, for it is computed from the batch's behaviour logits.

    Before the first batch there are no statistics, and nothing can be learned from numbers around 5,000. So the first batch
    is taken in before it is trained on.

    Args:
        model: the network that is trained.
        reducer: sums over ranks.
        frozen: the parts of the network that are not trained; with `normaliser` the statistics stay as they are.
    """

    def __init__(self, model: AgentModel, reducer: Reducer, frozen: Sequence[str] = ()) -> None:
        self._moments = None if "normaliser" in frozen else model.normaliser
        self._paths = tuple(model.spec.normalised)
        self._reducer = reducer
        self._merged = False

    def before_training(self, batch: Batch) -> None:
        """Take in the first batch of a run. Every rank must call it."""
        self._merged = self._moments is not None and not bool(self._moments.count)
        if self._moments is not None and self._merged:
            merge_over_ranks(self._moments, fresh_observations(batch, self._paths), self._reducer)
            if line := constant_numbers(self._moments):
                log.warning("%s", line)

    def after_training(self, batch: Batch) -> None:
        """Take in any other batch. Every rank must call it, before the weights are published."""
        if self._moments is not None and not self._merged:
            merge_over_ranks(self._moments, fresh_observations(batch, self._paths), self._reducer)


def fresh_observations(batch: Batch, paths: Sequence[str]) -> Array:
    """`[n, D]`: the vectors of each step that was not trained on before and in which the agent was present, side by side.

    Args:
        batch: of this rank.
        paths: of the keys that are vectors; only "" for a plain observation.
    """
    parts = dict(parts_of(batch.observations))
    counts_BT = batch.valid & batch.fresh[:, None]
    chosen: Array = np.concatenate([parts[path][:, :-1][counts_BT] for path in paths], -1)
    return chosen


class RewardScale:
    """The running standard deviation of the discounted return, which rewards are divided by.

    The discounted return of a step is its reward plus gamma times that of the step before, from 0 at the start of each episode,
    as in Gymnasium's NormalizeReward and Stable-Baselines3's VecNormalize. A trajectory brings what it was before its first
    step.

    Args:
        discount: gamma.
        ranks: all of them take in batches together.
    """

    def __init__(self, discount: float, ranks: Ranks) -> None:
        self.discount = discount
        self.reducer = ranks.reducer
        self.moments = RunningMoments(1, np.inf).to(ranks.device)

    def update(self, batch: Batch) -> None:
        """Take in a batch. Every rank must call it."""
        returns_BT = discounted_returns(batch, self.discount)
        merge_over_ranks(self.moments, returns_BT[batch.valid & batch.fresh[:, None]][:, None], self.reducer)

    @property
    def factor(self) -> float:
        """What rewards are multiplied by: 1 over the deviation; 1 while returns have never varied."""
        return float(self.moments.factor[0])

    def state(self) -> dict[str, float]:
        """The state for the checkpoint."""
        return {name: float(value) for name, value in self.moments.state_dict().items()}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Restore what `state` returned.

        Raises:
            UserError: if the checkpoint holds none.
        """
        if state is None:
            raise UserError(
                "the checkpoint was trained with trainer.normalize_returns=false and holds no statistics of rewards; set it to "
                "false, or start a new run"
            )
        for name, value in self.moments.state_dict().items():
            value.fill_(state[name])
        self.moments.refresh()


def discounted_returns(batch: Batch, discount: float) -> Array:
    """The discounted return of each step, `[B, T]` float64, from what it was before the first one."""
    assert batch.discounted_return is not None, "the run's schema has it if trainer.normalize_returns is true"
    returns_BT = np.empty_like(batch.rewards, np.float64)
    running = batch.discounted_return.astype(np.float64)
    ends_BT = batch.terminated | batch.truncated
    for t in range(returns_BT.shape[1]):
        running = np.where(batch.valid[:, t], discount * running + batch.rewards[:, t], running)
        returns_BT[:, t] = running
        running = np.where(ends_BT[:, t], 0.0, running)
    return returns_BT


def constant_numbers(moments: RunningMoments) -> str:
    """One line about the numbers of an observation that have never varied; empty if all have."""
    constant = moments.constant().nonzero()[:, 0].tolist()
    if not constant:
        return ""
    named = ", ".join(map(str, constant[:8])) + (", ..." if len(constant) > 8 else "")  # noqa: PLR2004  (fits on a line)
    return (
        f"{len(constant)} of {len(moments.mean)} numbers of an observation ({named}) were the same in the first "
        f"{int(moments.count):,} steps; normalised, each is 0 until it varies"
    )
