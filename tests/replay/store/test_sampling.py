"""Sampling by priority: the exact distribution and the importance weights."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.store.sampling import LEAST, chances, draw, importance

MANY = 20_000
CHI_SQUARE_11 = 31.26
"""What a chi-square of 11 degrees of freedom passes once in 1,000."""


def test_each_draw_is_in_proportion_to_the_remaining_chances() -> None:
    # By hand: (i, j) of 1, 2, 3, 6 comes with p_i * p_j / (1 - p_i); 12 ordered pairs.
    chance = np.array([1.0, 2.0, 3.0, 6.0])
    share = chance / chance.sum()
    expected = {(i, j): share[i] * share[j] / (1 - share[i]) for i, j in permutations(range(4), 2)}
    assert sum(expected.values()) == pytest.approx(1)
    generator = np.random.default_rng(0)
    counts = Counter(tuple(draw(chance, 2, generator).tolist()) for _ in range(MANY))
    assert set(counts) == set(expected)
    squares = sum((counts[pair] - MANY * p) ** 2 / (MANY * p) for pair, p in expected.items())
    assert squares < CHI_SQUARE_11


def test_equal_chances_give_a_uniform_draw() -> None:
    generator = np.random.default_rng(1)
    counts = Counter(tuple(draw(np.full(4, 7.0), 2, generator).tolist()) for _ in range(MANY))
    squares = sum((counts[pair] - MANY / 12) ** 2 / (MANY / 12) for pair in permutations(range(4), 2))
    assert squares < CHI_SQUARE_11


@given(st.lists(st.floats(1e-6, 3e38), min_size=1, max_size=30), st.data())
def test_a_draw_never_repeats_a_place(chance: list[float], data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, len(chance)))
    drawn = draw(np.array(chance), rows, np.random.default_rng(data.draw(st.integers(0, 99)))).tolist()
    assert len(drawn) == len(set(drawn)) == rows
    assert set(drawn) <= set(range(len(chance)))


def test_a_chance_is_a_power_of_the_priority() -> None:
    # 0.6: 32 ** 0.6 = 2 ** 3 = 8, as Schaul et al. have it.
    np.testing.assert_allclose(chances(np.array([32.0, 1.0]), 0.6), [8.0, 1.0], rtol=1e-5)
    np.testing.assert_allclose(chances(np.array([0.0, 4.0]), 0.5), [LEAST**0.5, 2.0], rtol=1e-6)
    assert chances(np.array([0.0, 5.0, np.nan]), 0.0).tolist() == [1.0, 1.0, 1.0]


def test_a_row_without_a_priority_counts_as_one_of_the_highest() -> None:
    np.testing.assert_allclose(chances(np.array([2.0, np.nan, 9.0]), 1.0), [2.0, 9.0, 9.0], rtol=1e-5)
    assert chances(np.array([np.nan, np.nan]), 1.0).tolist() == [1 + LEAST, 1 + LEAST]


def test_importance_weights_correct_for_the_sampling_frequency() -> None:
    # Four rows with P = 1/16, 1/16, 2/16, 12/16: N P = 1/4, 1/4, 1/2, 3, so 1 / (N P) = 4, 4, 2, 1/3.
    chance = np.array([1.0, 1.0, 2.0, 12.0])
    # Rows 1 and 3 are drawn: 4 and 1/3, divided by the largest, 4.
    np.testing.assert_allclose(importance(chance, np.array([1, 3]), 1.0), [1, 1 / 12])
    # Rows 2 and 3, beta 0.5: sqrt(2) and sqrt(1/3), divided by sqrt(2).
    np.testing.assert_allclose(importance(chance, np.array([2, 3]), 0.5), [1, 6**-0.5])
    assert importance(chance, np.array([2, 3]), 0.0).tolist() == [1, 1]
    assert importance(chance, np.array([], np.int64), 1.0).tolist() == []
