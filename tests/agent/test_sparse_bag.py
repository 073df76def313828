"""Bags of a table's rows: PyTorch's own sums and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import embedding_bag

from agent.tokens.sparse_bag import INT16_ROWS, sparse_bag

BAGS, WIDTH, ENTRIES = 9, 5, 60


@pytest.mark.parametrize("rows", [7, 500, INT16_ROWS, INT16_ROWS + 1])
def test_sums_and_gradients_are_pytorchs_own(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    table = torch.randn(rows, WIDTH, generator=generator, requires_grad=True)
    bag = torch.randint(1, BAGS - 1, (ENTRIES,), generator=generator).sort().values.int()  # the first and the last are empty
    row = torch.randint(0, rows, (ENTRIES,), generator=generator).int()
    row[:4] = torch.tensor([rows - 1, 0, rows - 1, rows - 1])
    weight = torch.randn(ENTRIES, generator=generator)
    upstream = torch.randn(WIDTH, BAGS, generator=generator).T  # not contiguous

    ours = sparse_bag(table, bag, row, weight, BAGS)
    offsets = torch.searchsorted(bag, torch.arange(BAGS, dtype=torch.int32)).int()
    theirs = embedding_bag(row, table, offsets, mode="sum", per_sample_weights=weight)
    torch.testing.assert_close(ours, theirs)
    assert not ours[0].any()
    assert not ours[-1].any()
    (our_gradient,) = torch.autograd.grad(ours, table, upstream)
    (their_gradient,) = torch.autograd.grad(theirs, table, upstream)
    torch.testing.assert_close(our_gradient, their_gradient)


def test_no_entries_give_zeros() -> None:
    table = torch.ones(3, WIDTH, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int32)
    bags = sparse_bag(table, none, none, torch.zeros(0), 2)
    (gradient,) = torch.autograd.grad(bags.sum(), table)
    assert bags.tolist() == [[0.0] * WIDTH] * 2
    assert not gradient.any()
