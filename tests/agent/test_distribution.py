"""Policies over one choice or several at once, against loops and by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch

from agent import distribution

SIZES = (2, 3)


def logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, sum(SIZES), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_each_factor_is_normalised_by_itself() -> None:
    log_probs = distribution.log_softmax(torch.tensor([0.0, log(3), 5.0, 5.0, 5.0]), SIZES)
    torch.testing.assert_close(log_probs.exp(), torch.tensor([0.25, 0.75, 1 / 3, 1 / 3, 1 / 3]))
    torch.testing.assert_close(distribution.log_softmax(logits(4), (5,)), logits(4).log_softmax(-1))


def test_sums_over_factors_and_spreading_back_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert distribution.factor_sums(values, SIZES).tolist() == [3, 12]
    assert distribution.factor_sums(values, (5,)).tolist() == [15]
    assert distribution.spread(torch.tensor([3.0, 12.0]), SIZES).tolist() == [3, 3, 12, 12, 12]
    assert distribution.spread(torch.tensor([[7.0], [8.0]]), (3,)).tolist() == [[7, 7, 7], [8, 8, 8]]


def test_rows_of_any_number_of_axes_are_treated_alike() -> None:
    rows = logits(4, 3)
    flat = rows.flatten(0, 1)
    actions = torch.stack([torch.arange(12) % n for n in SIZES], -1)
    whole = actions.view(4, 3, 2)
    for per_row in (distribution.log_softmax, distribution.factor_sums):
        torch.testing.assert_close(per_row(rows, SIZES).flatten(0, 1), per_row(flat, SIZES))
    spread = distribution.spread(distribution.factor_sums(rows, SIZES), SIZES)
    torch.testing.assert_close(spread.flatten(0, 1), distribution.spread(distribution.factor_sums(flat, SIZES), SIZES))
    torch.testing.assert_close(distribution.entropy(rows).flatten(), distribution.entropy(flat))
    for of_actions in (distribution.action_columns, distribution.one_hot):
        assert torch.equal(of_actions(whole, SIZES, factored=True).flatten(0, 1), of_actions(actions, SIZES, factored=True))
    chosen = distribution.log_prob(rows, whole, SIZES, factored=True)
    torch.testing.assert_close(chosen.flatten(), distribution.log_prob(flat, actions, SIZES, factored=True))
    best = distribution.argmax(rows, SIZES, factored=True)
    assert torch.equal(best.flatten(0, 1), distribution.argmax(flat, SIZES, factored=True))


def test_the_columns_of_a_factored_action_start_behind_the_factors_before() -> None:
    actions = torch.tensor([[1, 2], [0, 0]], dtype=torch.int32)
    assert distribution.action_columns(actions, SIZES, factored=True).tolist() == [[1, 4], [0, 2]]
    assert distribution.action_columns(torch.tensor([4, 0]), (5,), factored=False).tolist() == [[4], [0]]
    assert distribution.action_columns(torch.tensor([[4], [0]]), (5,), factored=True).tolist() == [[4], [0]]
    assert distribution.one_hot(actions, SIZES, factored=True).tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]
    assert distribution.one_hot(torch.tensor([2]), (3,), factored=False).tolist() == [[0, 0, 1]]


def test_the_log_probability_of_a_factored_action_is_the_sum_of_its_choices() -> None:
    log_probs = distribution.log_softmax(logits(6), SIZES)
    actions = torch.tensor([[a, b] for a in range(2) for b in range(3)])
    joint = distribution.log_prob(log_probs, actions, SIZES, factored=True)
    for row, (a, b) in enumerate(actions.tolist()):
        assert joint[row].item() == pytest.approx((log_probs[row, a] + log_probs[row, 2 + b]).item())
    # The six joint actions of one row have probabilities that sum to one.
    one_row = distribution.log_prob(log_probs[:1].expand(6, -1), actions, SIZES, factored=True)
    assert one_row.exp().sum().item() == pytest.approx(1)


def test_the_entropy_of_a_factored_policy_is_that_of_the_joint_one() -> None:
    log_probs = distribution.log_softmax(logits(1)[0], SIZES)
    joint = (log_probs[:2].unsqueeze(1) + log_probs[2:]).flatten().exp()
    assert distribution.entropy(log_probs).item() == pytest.approx(-(joint * joint.log()).sum().item())
    assert distribution.entropy(torch.zeros(4).log_softmax(-1)).item() == pytest.approx(log(4))


@pytest.mark.parametrize("shape", [(), (3,)])
def test_draws_follow_the_policy_factor_by_factor(shape: tuple[int, ...]) -> None:
    # 20,000 draws: four standard errors are below 0.0142.
    generator = torch.Generator().manual_seed(1)
    policy = distribution.log_softmax(2 * logits(*shape).float(), SIZES)
    drawn = distribution.sample(policy.expand(20_000, *policy.shape), SIZES, factored=True, generator=generator)
    assert drawn.shape == (20_000, *shape, 2)
    assert drawn.dtype == torch.int64
    for index in np.ndindex(shape):
        for factor, part in enumerate(torch.split(policy[index].exp(), list(SIZES))):
            counts = torch.bincount(drawn[(slice(None), *index, factor)], minlength=len(part))
            torch.testing.assert_close(counts / 20_000, part, atol=0.0142, rtol=0)


def test_draws_need_no_normalised_logits_and_repeat_with_the_generator() -> None:
    raw = 3 * logits(50).float() + 100
    first = distribution.sample(raw, (5,), factored=False, generator=torch.Generator().manual_seed(3))
    again = distribution.sample(raw, (5,), factored=False, generator=torch.Generator().manual_seed(3))
    assert first.shape == (50,)
    assert torch.equal(first, again)


def test_an_action_of_no_probability_is_never_drawn() -> None:
    policy = torch.tensor([0.0, -float("inf"), 0.0]).expand(5000, 3)
    drawn = distribution.sample(policy, (3,), factored=False, generator=torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {0, 2}


def test_the_best_choice_of_each_factor() -> None:
    scores = torch.tensor([[1.0, 2.0, 9.0, 3.0, 4.0], [2.0, 1.0, 0.0, 0.0, 1.0]])
    assert distribution.argmax(scores, SIZES, factored=True).tolist() == [[1, 0], [0, 2]]
    assert distribution.argmax(scores, (5,), factored=False).tolist() == [2, 0]
    assert distribution.argmax(scores, (5,), factored=True).tolist() == [[2], [0]]
