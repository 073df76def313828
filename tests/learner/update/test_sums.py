"""Late statistics: worked out for many updates at once, they are what each update's own values come to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learner.loss import Statistic, Term
from learner.update.sums import UpdateSums, counts_of, masked_sum, settle
from tests.learner.worlds import PLANS, inputs_of, make_batch, make_spec, make_trainer, make_updater_of, weigh

NAN = float("nan")


def difference(a: Tensor, b: Tensor) -> Tensor:
    return a - b


def update_sums_of(rows: int, seed: int, *, whole: bool) -> tuple[UpdateSums, list[list[float]]]:
    """An update's update_sums, and its sums and counts by loops."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rows, 3, 2, generator=generator), torch.randn(rows, 3, 2, generator=generator)
    mask = torch.ones(rows, 3, 2, dtype=torch.bool) if whole else torch.rand(rows, 3, 2, generator=generator) < 0.6
    a = torch.where(mask, a, NAN)
    now: list[Term | Statistic] = [Term(a, mask, 1.0), Statistic(b, mask)]
    true_mask = mask if whole else None
    late = {
        ("x", "late"): Statistic.later(difference, (a, b), mask),
        ("y", "second"): Statistic.later(difference, (a, b), mask, last=1),
        ("y", "above"): Statistic.later(torch.gt, (a, b), mask),
    }
    keys = (("x", "term"), ("x", "late"), ("x", "seen"), ("y", "second"), ("y", "above"))
    update_sums = UpdateSums(keys, [masked_sum(entry, true_mask) for entry in now], counts_of(now, true_mask), late, true_mask)
    places = [(r, t, k) for r in range(rows) for t in range(3) for k in range(2) if mask[r, t, k]]
    picked = {
        "term": [float(a[p]) for p in places],
        "late": [float(a[p] - b[p]) for p in places],
        "seen": [float(b[p]) for p in places],
        "second": [float(a[p] - b[p]) for p in places if p[2] == 1],
        "above": [float(a[p] > b[p]) for p in places],
    }
    return update_sums, [[sum(picked[name]) for _, name in keys], [len(picked[name]) for _, name in keys]]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("rows", [(2,), (2, 2, 2), (3, 3, 1)])
def test_sums_and_counts_are_each_updates_own(rows: tuple[int, ...], whole: bool) -> None:
    made = [update_sums_of(number, seed, whole=whole) for seed, number in enumerate(rows)]
    torch.testing.assert_close(
        settle([update_sums for update_sums, _ in made]), torch.tensor([expected for _, expected in made])
    )


@pytest.mark.parametrize("arm", PLANS)
def test_what_is_late_holds_no_graph(arm: str) -> None:
    # It is kept for dozens of updates, and so would be every activation of theirs.
    updater = make_updater_of(make_trainer(arm), spec := make_spec())
    late = weigh(updater, updater.objective.prepare(inputs_of(updater, make_batch(spec)))).update_sums.late
    assert late
    held = {key for key, entry in late.items() for tensor in (*entry.inputs, entry.counted) if tensor.requires_grad}
    assert held == set()


def test_nothing_of_the_report_asks_for_a_gradient() -> None:
    value = torch.ones(1, 2, requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    entries: list[Term | Statistic] = [Term(value, mask, 1.0), Statistic(value, mask)]
    sums = [masked_sum(entry) for entry in entries]
    assert [each.requires_grad for each in sums] == [True, False]
    assert not settle([UpdateSums((("a", "b"), ("a", "c")), sums, counts_of(entries), {})]).requires_grad
