"""A small budget shrinks the batch, so that a short run still learns and reports several times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.budget import MIN_BATCHES, batch_unit, fit_batch
from learner.settings import TrainerSettings


def trainer(*, total: int, batch: int = 64, minibatches: int = 4, learners: int = 1) -> TrainerSettings:
    return TrainerSettings(total_timesteps=total, batch_size=batch, minibatches=minibatches, learners=learners)


@pytest.mark.parametrize(
    ("settings", "unroll_length", "expected"),
    [
        # 1,000,000 / (20 * 64) = 781 trajectories a batch would still make 20: the 64 that were asked stay.
        (trainer(total=1_000_000), 64, 64),
        # 10,000 / 1,280 = 7: the largest multiple of 4 is 4, which makes 10,000 / 256 = 39 learner steps.
        (trainer(total=10_000), 64, 4),
        # 81,920 / 1,280 = 64 exactly; one step less makes 63, hence 60.
        (trainer(total=81_920), 64, 64),
        (trainer(total=81_919), 64, 60),
        # Never below one trajectory a minibatch and rank.
        (trainer(total=1), 64, 4),
        (trainer(total=10_000, learners=3), 64, 12),
        # What was asked is itself brought to a multiple.
        (trainer(total=1_000_000, batch=70, minibatches=4), 64, 68),
        (trainer(total=1_000_000, batch=6, minibatches=4, learners=2), 64, 8),
    ],
)
def test_the_batch_fits_the_budget(settings: TrainerSettings, unroll_length: int, expected: int) -> None:
    assert fit_batch(settings, unroll_length) == expected


def test_no_minibatch_of_single_steps_is_empty() -> None:
    settings = trainer(total=1, minibatches=256, learners=2)
    settings.shuffle = "steps"
    assert fit_batch(settings, 128) == 4  # two trajectories of 128 steps for each rank
    assert fit_batch(settings, 100) == 6


def test_ten_thousand_steps_of_unrolls_of_64_make_at_least_five_learner_steps() -> None:
    size = fit_batch(trainer(total=10_000), 64)
    assert 10_000 / (size * 64) >= 5


@given(st.integers(1, 10**7), st.integers(1, 512), st.integers(1, 8), st.integers(1, 4), st.integers(1, 256))
def test_every_rank_gets_the_same_number_of_whole_minibatches(
    total: int, batch: int, minibatches: int, learners: int, unroll_length: int
) -> None:
    settings = trainer(total=total, batch=batch, minibatches=minibatches, learners=learners)
    size, unit = fit_batch(settings, unroll_length), batch_unit(settings)
    assert size % unit == 0
    assert size <= max(unit, batch)
    assert size == unit or size * unroll_length * MIN_BATCHES <= total
