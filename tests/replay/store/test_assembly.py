from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from protocol.data.trajectory import Array
from replay.store.assembly import Assembler, Part
from replay.store.queue import QueuedRows, Slice, TrajectoryQueue
from tests.replay.blocks import SCHEMA, as_slice, block


def assemble(*slices: Slice) -> Part:
    return Assembler(SCHEMA, 2).assemble(7, slices)


def test_rows_of_two_blocks_become_one_batch() -> None:
    first, second = block(3, first=10, version=4), block(2, first=20, version=6)
    part = assemble(as_slice(first, 1, 3), as_slice(second, 0, 1))
    assert part.rows == 3
    assert part.arrays["observations"][:, 0, 1].tolist() == [11, 12, 20]
    assert part.arrays["policy_version"].tolist() == [4, 4, 6]
    assert part.arrays["fresh"].tolist() == [True, True, True]
    assert part.env_steps == 6


def test_final_observations_follow_their_rows() -> None:
    first = block(3, truncate=((0, 0), (2, 1)))  # final observations [0, 1000] and [0, 1002]
    second = block(2, truncate=((1, 0), (0, 1)))  # [0, 1001] and [0, 1000], not in the order of the rows
    part = assemble(as_slice(first, 2, 3), as_slice(second, 0, 2))
    # By hand: row 2 of the first block is row 0 of the batch; rows 0 and 1 of the second are rows 1 and 2.
    assert part.arrays["final_trajectory"].tolist() == [0, 2, 1]
    assert part.arrays["final_step"].tolist() == [1, 0, 1]
    assert part.arrays["final_observations"][:, 1].tolist() == [1002, 1001, 1000]


def test_a_batch_is_in_its_payload_as_the_batch_schema_says() -> None:
    part = assemble(as_slice(block(2, first=3, truncate=((1, 1),)), 0, 2))
    views = SCHEMA.batch.views(bytes(part.payload), part.size)
    for name, array in part.arrays.items():
        np.testing.assert_array_equal(views[name], array)


def test_a_part_that_was_not_trained_on_returns_as_its_original_rows() -> None:
    part = assemble(as_slice(block(3, first=10, version=4), 1, 3), as_slice(block(2, first=20, version=6), 0, 2))
    back = list(part.queued_rows())
    assert [(one.rows, one.policy_version, one.arrived) for one in back] == [(2, 4, 1.5), (2, 6, 1.5)]
    again = assemble(*(Slice(one.arrays, one.start, one.stop, one.policy_version, one.arrived) for one in back))
    for name, array in part.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_a_buffer_is_reused_once_its_batch_was_trained_on() -> None:
    assembler = Assembler(SCHEMA, 2)
    first = assembler.assemble(0, [as_slice(block(2, first=1), 0, 2)])
    second = assembler.assemble(1, [as_slice(block(2, first=3), 0, 2)])
    assert second.buffer is not first.buffer
    assert first.arrays["observations"][0, 0, 1] == 1
    assembler.recycle(first)
    third = assembler.assemble(2, [as_slice(block(2, first=5), 0, 2)])
    assert third.buffer is first.buffer
    assert third.arrays["observations"][:, 0, 1].tolist() == [5, 6]


def test_a_buffer_that_is_too_small_is_not_used() -> None:
    assembler = Assembler(SCHEMA, 2)
    small = assembler.assemble(0, [as_slice(block(1), 0, 1)])
    assembler.recycle(small)
    assert assembler.assemble(1, [as_slice(block(50), 0, 50)]).buffer is not small.buffer


rows_and_ends = st.integers(1, 5).flatmap(
    lambda rows: st.tuples(
        st.just(rows), st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, 1)), unique=True, max_size=4).map(tuple)
    )
)


@given(st.lists(rows_and_ends, min_size=1, max_size=5), st.data())
def test_every_row_keeps_its_own_final_observations_however_batches_are_cut(shapes: list[Any], data: st.DataObject) -> None:
    queue, expected = TrajectoryQueue(), []
    for number, (rows, truncate) in enumerate(shapes):
        content = block(rows, mark=number, truncate=truncate)
        views = SCHEMA.trajectory.views(SCHEMA.trajectory.pack(content), content.size)
        queue.append(QueuedRows(views, 0, rows, 0, 0.0, 1))
        # A row is the set of its (mark, step, final observation).
        expected += [{(number, step, 1000 + row) for where, step in truncate if where == row} for row in range(rows)]
    assembler, got = Assembler(SCHEMA, 2), []
    while queue.rows:
        part = assembler.assemble(0, queue.take(data.draw(st.integers(1, queue.rows))))
        got += [finals_of(part.arrays, row) for row in range(part.rows)]
    assert got == expected


def finals_of(arrays: dict[str, Array], row: int) -> set[tuple[int, int, int]]:
    mine = arrays["final_trajectory"] == row
    steps, observations = arrays["final_step"][mine].tolist(), arrays["final_observations"][mine].tolist()
    return {(int(mark), step, int(number)) for step, (mark, number) in zip(steps, observations, strict=True)}
