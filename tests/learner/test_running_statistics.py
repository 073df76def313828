"""Statistics of observations and rewards: fresh, valid steps once; a loop over steps is the oracle."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.running_moments import RunningMoments
from learner.nodes.network import Forward
from learner.running_statistics import (
    ObservationStatistics,
    RewardScale,
    constant_numbers,
    fresh_observations,
    merge_over_ranks,
)
from oatmill.errors import UserError
from protocol.data.batch import Batch
from protocol.data.observations import ObservationDict
from protocol.data.trajectory import Array
from tests.learner.worlds import ONE, inputs_of, make_batch, make_spec, make_trainer, make_updater_of

SPEC = make_spec(normalize_observations=True)


def seen(batch: Batch) -> Array:
    """The observations that count, step by step."""
    size, steps = batch.rewards.shape
    return np.array(
        [
            batch.observations[row, t].astype(np.float64)
            for row in range(size)
            for t in range(steps)
            if batch.fresh[row] and batch.valid[row, t]
        ]
    )


def test_fresh_and_valid_steps_count_once_and_others_never() -> None:
    updater = make_updater_of(make_trainer(), SPEC)
    statistics, moments = ObservationStatistics(updater.context.model, ONE.reducer), updater.context.model.normaliser
    assert moments is not None
    batches = [make_batch(SPEC, seed=seed, absent=True) for seed in range(3)]
    batches[1] = replace(batches[1], fresh=np.array([True, False] * 3))
    batches[0].observations[0, -1] = 1e9  # the first of the next trajectory
    batches[0].observations[:, :-1][~batches[0].valid] = np.nan
    assert not all(batch.valid.all() for batch in batches)
    for batch in batches:
        statistics.before_training(batch)
        statistics.after_training(batch)
    everything = np.concatenate([seen(batch) for batch in batches])
    assert float(moments.count) == len(everything)
    np.testing.assert_allclose(moments.mean.numpy(), everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.squares.numpy(), everything.var(0) * len(everything), rtol=1e-12)


def test_the_first_batch_is_taken_in_before_it_is_trained_on_and_later_ones_afterwards() -> None:
    updater = make_updater_of(make_trainer(), SPEC)
    statistics, moments = ObservationStatistics(updater.context.model, ONE.reducer), updater.context.model.normaliser
    assert moments is not None
    counts = []
    for seed in range(3):
        statistics.before_training(make_batch(SPEC, seed=seed))
        counts.append(int(moments.count))
        statistics.after_training(make_batch(SPEC, seed=seed))
        counts.append(int(moments.count))
    assert counts == [42, 42, 42, 84, 84, 126]


def test_a_batch_of_the_newest_version_starts_at_ratio_1_and_one_acted_before_with_the_true_ratio() -> None:
    updater = make_updater_of(make_trainer(), SPEC)
    model, forward = updater.context.model, Forward(updater.context)
    statistics = ObservationStatistics(model, ONE.reducer)
    statistics.before_training(make_batch(SPEC, seed=5))
    batch = make_batch(SPEC)
    acted = model.act(torch.from_numpy(batch.observations[:, :-1].reshape(-1, 4)), model.initial_state(42)).logits
    batch = replace(batch, behaviour_logits=acted.view(6, 7, 3).numpy().copy())

    def ratio() -> torch.Tensor:
        return forward.prepare(**updater.objective.select(inputs_of(updater, batch), forward, "prepare"))["importance_ratio_BT"]

    statistics.before_training(batch)
    torch.testing.assert_close(ratio(), torch.ones(6, 7))
    statistics.after_training(batch)
    now = model.act(torch.from_numpy(batch.observations[:, :-1].reshape(-1, 4)), model.initial_state(42)).logits
    taken = torch.from_numpy(batch.actions.reshape(-1, 1)).long()
    expected = (now.log_softmax(-1) - acted.log_softmax(-1)).gather(-1, taken).exp().view(6, 7)
    assert not torch.allclose(expected, torch.ones(6, 7))
    torch.testing.assert_close(ratio(), expected)


class Two:
    """Two ranks with the same rows."""

    world_size = 2

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


def test_ranks_count_together() -> None:
    rows = np.random.default_rng(0).normal(1e6, 0.01, (50, 2))
    moments = RunningMoments(2, 10.0)
    merge_over_ranks(moments, rows, Two())
    assert float(moments.count) == 100
    np.testing.assert_allclose(moments.squares.numpy() / 100, rows.var(0), rtol=1e-9)
    merge_over_ranks(moments, rows[:0], Two())
    assert float(moments.count) == 100


def test_constant_numbers_are_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    updater = make_updater_of(make_trainer(), SPEC)
    batch = make_batch(SPEC)
    batch.observations[..., 1::2] = 7.0
    with caplog.at_level(logging.WARNING):
        ObservationStatistics(updater.context.model, ONE.reducer).before_training(batch)
    line = "2 of 4 numbers of an observation (1, 3) were the same in the first 42 steps; normalised, each is 0 until it varies"
    assert [record.getMessage() for record in caplog.records] == [line]
    assert constant_numbers(RunningMoments(20, 1.0)).startswith(
        "20 of 20 numbers of an observation (0, 1, 2, 3, 4, 5, 6, 7, ...)"
    )


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return() -> None:
    scale = RewardScale(0.9, ONE)
    expected: list[float] = []
    for seed in range(3):
        batch = make_batch(SPEC, seed=seed, absent=True)
        before = np.random.default_rng(seed).normal(size=6).astype(np.float32)
        batch = replace(batch, discounted_return=before, fresh=np.arange(6) != seed)
        scale.update(batch)
        for row in range(6):
            running = float(before[row])
            for t in range(7):
                if not batch.valid[row, t]:
                    continue
                running = 0.9 * running + float(batch.rewards[row, t])
                if batch.fresh[row]:
                    expected.append(running)
                if batch.terminated[row, t] or batch.truncated[row, t]:
                    running = 0.0
    assert scale.factor == pytest.approx(1 / np.sqrt(np.var(expected) + 1e-8), rel=1e-6)


def test_rewards_that_never_vary_are_left_as_they_are() -> None:
    scale = RewardScale(0.0, ONE)
    batch = replace(make_batch(SPEC), discounted_return=np.zeros(6, np.float32), rewards=np.ones((6, 7), np.float32))
    scale.update(batch)
    assert scale.factor == 1.0


def test_the_deviation_of_a_checkpoint_goes_on_to_the_bit_and_one_without_is_refused() -> None:
    scale, again = RewardScale(0.9, ONE), RewardScale(0.9, ONE)
    scale.update(replace(make_batch(SPEC), discounted_return=np.zeros(6, np.float32)))
    again.load(scale.state())
    assert (again.factor, again.state()) == (scale.factor, scale.state())
    with pytest.raises(
        UserError, match=r"trainer\.normalize_returns=false and holds no statistics of rewards; set it to false"
    ):
        again.load(None)


def test_the_vectors_of_a_dict_are_taken_side_by_side() -> None:
    near, far = np.arange(24.0).reshape(2, 4, 3), -np.arange(8.0).reshape(2, 4, 1)
    observations = ObservationDict({"camera": np.zeros((2, 4, 1, 2, 2), np.uint8), "near": near, "out/far": far})
    valid = np.array([[True, False, True], [True, True, True]])
    batch = replace(make_batch(SPEC), observations=observations, valid=valid, fresh=np.array([True, False]))
    assert fresh_observations(batch, ("near", "out/far")).tolist() == [[0, 1, 2, 0], [6, 7, 8, -2]]
