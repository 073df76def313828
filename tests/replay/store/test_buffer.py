"""The replay buffer: what it keeps, what it removes, how it samples, and that rows do not change in it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.data.trajectory import Array
from replay.store.assembly import Assembler, Part
from replay.store.buffer import BufferSettings, ReplayBuffer, capacity_of, replayed_rows
from replay.store.queue import Slice
from tests.replay.blocks import SCHEMA, as_slice, block

STEPS = 2
MANY = 2**30


def make_buffer(size: int = 4, **changes: Any) -> ReplayBuffer:
    return ReplayBuffer(SCHEMA, STEPS, BufferSettings(**({"fraction": 0.5, "size": size, "max_bytes": MANY} | changes)))


def part_of(*slices: Slice) -> Part:
    return Assembler(SCHEMA, STEPS).assemble(0, slices)


def fresh_part(first: int, rows: int, **how: Any) -> Part:
    """Trajectories numbered from `first`."""
    return part_of(as_slice(block(rows, first=first, **how), 0, rows))


def numbers(slices: list[Slice]) -> list[int]:
    return [int(piece.arrays["observations"][piece.start, 0, 1]) for piece in slices]


def held(buffer: ReplayBuffer) -> set[int]:
    return set(numbers(buffer.sample(buffer.rows)))


def test_trained_rows_can_be_sampled_again_bit_for_bit() -> None:
    part = fresh_part(10, 3, version=5, truncate=((0, 1), (2, 0)))
    before = {name: array.copy() for name, array in part.arrays.items()}
    buffer = make_buffer()
    buffer.insert(part)
    part.buffer[...] = 255  # its memory is used again for the next batch
    drawn = sorted(buffer.sample(3), key=lambda piece: numbers([piece]))
    again = part_of(*drawn)
    for name, array in again.arrays.items():
        if name != "fresh":
            np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert not again.arrays["fresh"].any()
    assert [piece.policy_version for piece in drawn] == [5, 5, 5]


def test_sampled_rows_are_not_inserted_again() -> None:
    buffer = make_buffer(8)
    buffer.insert(fresh_part(0, 2))
    mixed = part_of(as_slice(block(2, first=10), 0, 2), *buffer.sample(2))
    assert (mixed.rows, mixed.fresh_rows) == (4, 2)
    buffer.insert(mixed)
    assert buffer.rows == 4
    assert held(buffer) == {0, 1, 10, 11}


def test_with_fifo_eviction_the_oldest_row_is_removed() -> None:
    buffer = make_buffer(4)
    for first in (0, 3, 6):
        buffer.insert(fresh_part(first, 3))
    assert held(buffer) == {5, 6, 7, 8}


def test_with_random_eviction_any_row_is_removed() -> None:
    survivors: Counter[int] = Counter()
    for seed in range(200):
        buffer = make_buffer(4, eviction="random", seed=seed)
        buffer.insert(fresh_part(0, 4))
        buffer.insert(fresh_part(4, 1))
        found = held(buffer)
        assert 4 in found
        assert len(found) == 4
        survivors.update(found)
    # Each of the first four survives with 3/4: 150 of 200, give or take 4 standard deviations of sqrt(200 * 3/16) = 6.1.
    assert all(abs(survivors[number] - 150) < 25 for number in range(4))


def test_sampling_is_uniform_and_without_repetition() -> None:
    buffer = make_buffer(8)
    buffer.insert(fresh_part(0, 8))
    counts: Counter[int] = Counter()
    for _ in range(1000):
        drawn = numbers(buffer.sample(4))
        assert len(set(drawn)) == 4
        counts.update(drawn)
    # Each row has 500 expected draws with a standard deviation of sqrt(1000 / 4) = 15.8; chi-square over 8 rows stays small.
    assert all(abs(counts[number] - 500) < 70 for number in range(8))


def test_the_seed_determines_the_sample() -> None:
    first, second, other = (make_buffer(8, seed=seed) for seed in (1, 1, 2))
    for buffer in (first, second, other):
        buffer.insert(fresh_part(0, 8))
    draws = [[numbers(buffer.sample(3)) for _ in range(5)] for buffer in (first, second, other)]
    assert draws[0] == draws[1] != draws[2]


def test_a_row_is_removed_after_it_was_sampled_often_enough() -> None:
    buffer = make_buffer(4, max_times_sampled=2)
    buffer.insert(fresh_part(0, 2))
    assert sorted(numbers(buffer.sample(2))) == [0, 1]
    assert buffer.rows == 2
    last = buffer.sample(2)
    assert buffer.rows == 0
    assert sorted(numbers(last)) == [0, 1], "who drew it can still read it"
    buffer.insert(fresh_part(5, 2))
    assert sorted(numbers(buffer.sample(2))) == [5, 6], "its slot counts from 0 again"
    assert buffer.rows == 2


def test_memory_is_counted_with_the_final_observations() -> None:
    buffer = make_buffer(2)
    buffer.insert(fresh_part(0, 2))
    plain = buffer.nbytes
    buffer.insert(fresh_part(2, 2, truncate=((0, 1),)))
    finals = sum(part.nbytes for name, part in fresh_part(0, 1, truncate=((0, 1),)).arrays.items() if name.startswith("final_"))
    assert buffer.nbytes == plain + finals
    buffer.insert(fresh_part(4, 2))
    assert buffer.nbytes == plain, "what is evicted is counted no more"


def test_the_number_of_slots_follows_from_size_and_memory() -> None:
    row = SCHEMA.row_bytes(STEPS)
    assert capacity_of(SCHEMA, STEPS, BufferSettings(size=10, max_bytes=MANY)) == 10
    assert capacity_of(SCHEMA, STEPS, BufferSettings(size=10, max_bytes=3 * row)) == 3
    assert capacity_of(SCHEMA, STEPS, BufferSettings(size=10, max_bytes=3 * row - 1)) == 2
    assert capacity_of(SCHEMA, STEPS, BufferSettings(size=10, max_bytes=1)) == 1


@pytest.mark.parametrize(
    ("fraction", "rows", "expected"), [(0.0, 8, 0), (0.5, 8, 4), (0.5, 7, 3), (0.95, 8, 7), (0.95, 1, 0), (0.7, 10, 7)]
)
def test_the_replayed_share_is_rounded_down(fraction: float, rows: int, expected: int) -> None:
    assert replayed_rows(fraction, rows) == expected  # 0.7 * 10 is 6.999... in floating point


class Model:
    """A first-in-first-out buffer, as a list."""

    def __init__(self, size: int, most: int) -> None:
        self.size, self.most = size, most
        self.rows: list[int] = []
        self.drawn: Counter[int] = Counter()

    def insert(self, first: int, rows: int) -> None:
        self.rows = [*self.rows, *range(first, first + rows)][-self.size :]

    def draw(self, found: list[int]) -> None:
        assert set(found) <= set(self.rows)
        self.drawn.update(found)
        self.rows = [number for number in self.rows if not self.most or self.drawn[number] < self.most]


@settings(max_examples=80, deadline=None)
@given(
    size=st.integers(1, 6),
    most=st.integers(0, 3),
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 4)), min_size=1, max_size=14),
)
def test_the_buffer_behaves_like_a_list_under_any_operations(size: int, most: int, steps: list[tuple[bool, int]]) -> None:
    buffer, model, first = make_buffer(size, max_times_sampled=most), Model(size, most), 0
    for put, count in steps:
        if put:
            buffer.insert(fresh_part(first, count))
            model.insert(first, count)
            first += count
        else:
            model.draw(numbers(buffer.sample(min(count, buffer.rows))))
        assert buffer.rows == len(model.rows)
    if not most:
        assert held(buffer) == set(model.rows)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 6), counts=st.lists(st.integers(1, 4), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_with_random_eviction_the_buffer_has_different_rows_and_the_newest_one(size: int, counts: list[int], seed: int) -> None:
    buffer, first = make_buffer(size, eviction="random", seed=seed), 0
    for count in counts:
        buffer.insert(fresh_part(first, count))
        first += count
        assert buffer.rows == min(first, size)
    found = held(buffer)
    assert len(found) == buffer.rows
    assert first - 1 in found
    assert found <= set(range(first))


def test_the_arrays_of_an_empty_buffer_are_of_the_runs_schema() -> None:
    part = fresh_part(0, 1)
    buffer = make_buffer(1)
    buffer.insert(part)
    (drawn,) = buffer.sample(1)
    shapes: dict[str, Array] = {name: array for name, array in drawn.arrays.items() if not name.startswith("final_")}
    assert {name: (array.dtype, array.shape[1:]) for name, array in shapes.items()} == {
        name: (array.dtype, array.shape[1:]) for name, array in part.arrays.items() if not name.startswith("final_")
    }


def told(part: Part, *priorities: float) -> Part:
    """With what the learner says of its rows."""
    part.priorities = np.array(priorities, np.float64)
    return part


def priorities(buffer: ReplayBuffer) -> dict[int, float]:
    """By the trajectory's number."""
    return {numbers([piece])[0]: past.priority for piece, past in buffer.kept(buffer.standing())}


def test_fresh_rows_get_their_priority_and_sampled_rows_a_new_one() -> None:
    buffer = make_buffer(8, sampling="prioritised")
    buffer.insert(told(fresh_part(0, 2), 3.0, 5.0))
    drawn = buffer.sample(2)
    mixed = part_of(as_slice(block(1, first=10), 0, 1), *drawn)
    buffer.insert(told(mixed, 7.0, *(20.0 + number for number in numbers(drawn))))
    assert priorities(buffer) == {0: 20.0, 1: 21.0, 10: 7.0}


def test_a_reused_slot_does_not_get_the_old_rows_priority() -> None:
    buffer = make_buffer(2, sampling="prioritised")
    buffer.insert(told(fresh_part(0, 2), 3.0, 5.0))
    drawn = buffer.sample(2)
    late = part_of(as_slice(block(1, first=10), 0, 1), *drawn)
    buffer.insert(told(fresh_part(4, 2), 1.0, 2.0))  # takes both slots
    buffer.insert(told(late, 7.0, 99.0, 99.0))
    assert priorities(buffer) == {5: 2.0, 10: 7.0}


def test_a_removed_row_does_not_return_with_its_priority() -> None:
    buffer = make_buffer(4, sampling="prioritised", max_times_sampled=1)
    buffer.insert(told(fresh_part(0, 2), 3.0, 5.0))
    standing = buffer.standing()
    mixed = part_of(as_slice(block(1, first=10), 0, 1), *buffer.sample(2))
    assert buffer.kept(standing) == []
    buffer.insert(told(mixed, 7.0, 1.0, 1.0))
    assert priorities(buffer) == {10: 7.0}


def test_rows_are_sampled_by_priority_and_frequent_ones_count_less() -> None:
    # alpha = 1: chances 1, 2, 3, 6 of 12. Row 3 is drawn 1/2 of the time: 10,000 of 20,000, one deviation is 71.
    buffer = make_buffer(4, sampling="prioritised", priority_exponent=1.0, importance_exponent=1.0)
    buffer.insert(told(fresh_part(0, 4), 1.0, 2.0, 3.0, 6.0))
    counts = Counter(numbers(buffer.sample(1))[0] for _ in range(20_000))
    shares = np.array([1, 2, 3, 6]) / 12
    squares = sum((counts[number] - 20_000 * share) ** 2 / (20_000 * share) for number, share in enumerate(shares))
    assert squares < 16.27, "3 degrees of freedom pass this once in 1,000"
    counting = {numbers([piece])[0]: piece.importance for piece in buffer.sample(4)}
    assert counting == pytest.approx({0: 1.0, 1: 1 / 2, 2: 1 / 3, 3: 1 / 6}, rel=1e-5)


def test_without_priorities_every_row_counts_1_and_sampling_is_uniform() -> None:
    buffer = make_buffer(8)
    buffer.insert(told(fresh_part(0, 8), *range(8)))
    generator = np.random.default_rng(0)
    for _ in range(5):
        drawn = buffer.sample(3)
        assert numbers(drawn) == generator.choice(8, 3, replace=False).tolist()
        assert [piece.importance for piece in drawn] == [1, 1, 1]


def test_rows_that_will_be_trained_on_again_are_removed() -> None:
    buffer = make_buffer(8)
    for version in (1, 2, 3):
        buffer.insert(fresh_part(2 * version, 2), version)
    buffer.forget(2)
    assert held(buffer) == {2, 3, 4, 5}
    buffer.insert(fresh_part(20, 6))
    assert buffer.rows == 8
