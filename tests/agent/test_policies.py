"""Policies over choices, numbers and both: joint numbers are sums over independent factors."""

from __future__ import annotations

from math import log, tanh

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from agent import distribution
from agent.policies import Policies
from protocol.data.spaces import ActionPart, ActionSpace

BOX = ActionSpace(factored=True, low=(-2.0, 0.0), high=(2.0, 1.0), parts=(ActionPart((), (2,), "float32", (0, 2)),))
MIXED = ActionSpace(
    (3, 2),
    factored=True,
    low=(-1.0, -1.0),
    high=(1.0, 1.0),
    parts=(
        ActionPart(("a",), (2,), "int64", (0, 2), (0, 0)),
        ActionPart(("b",), (2,), "float32", (2, 4)),
    ),
)


def rows_of(action: ActionSpace, seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, action.num_parameters, generator=torch.Generator().manual_seed(seed))


def torch_log_prob(rows: Tensor, actions: Tensor) -> Tensor:
    """Of MIXED, factor by factor, by torch.distributions."""
    first = Categorical(logits=rows[..., :3]).log_prob(actions[..., 0])  # type: ignore[no-untyped-call]
    second = Categorical(logits=rows[..., 3:5]).log_prob(actions[..., 1])  # type: ignore[no-untyped-call]
    numbers = Normal(rows[..., 5:7], rows[..., 7:9].exp()).log_prob(actions[..., 2:])  # type: ignore[no-untyped-call]
    joint: Tensor = first + second + numbers.sum(-1)
    return joint


@pytest.mark.parametrize("squash", ["clip", "tanh"])
def test_the_joint_log_probability_is_the_sum_over_choices_and_numbers(squash: str) -> None:
    policies, rows = Policies(MIXED, squash), rows_of(MIXED, 0, 5, 7)
    actions = policies.sample(rows, torch.Generator().manual_seed(0))
    assert actions.shape == (5, 7, 4)
    normalised = policies.normalise(rows)
    torch.testing.assert_close(policies.log_prob(normalised, actions), torch_log_prob(rows, actions))
    other = policies.normalise(rows_of(MIXED, 1, 5, 7))
    torch.testing.assert_close(
        policies.log_ratio(normalised, other, actions), torch_log_prob(rows, actions) - torch_log_prob(other, actions)
    )


def test_drawn_actions_of_one_row_are_evaluated_against_it() -> None:
    # N draws a state, as CMPO has them: [B, N, width] against [B, 1, P].
    policies, rows = Policies(MIXED, "clip"), rows_of(MIXED, 0, 3)
    actions = policies.sample(rows.unsqueeze(1).expand(-1, 4, -1), torch.Generator().manual_seed(0))
    found = policies.log_prob(policies.normalise(rows).unsqueeze(1), actions)
    expected = torch.stack([torch_log_prob(rows, actions[:, n]) for n in range(4)], 1)
    torch.testing.assert_close(found, expected)


def test_entropy_and_divergence_are_sums_over_factors() -> None:
    policies = Policies(MIXED, "clip")
    rows, others = (policies.normalise(rows_of(MIXED, seed, 5)) for seed in (0, 1))
    parts = [
        (Categorical(logits=r[:, :3]), Categorical(logits=r[:, 3:5]), Normal(r[:, 5:7], r[:, 7:].exp())) for r in (rows, others)
    ]
    entropies = [part.entropy() for part in parts[0]]  # type: ignore[no-untyped-call]
    torch.testing.assert_close(policies.entropy(rows), entropies[0] + entropies[1] + entropies[2].sum(-1))
    torch.testing.assert_close(policies.drawn_entropy(rows), policies.entropy(rows))
    kls = [kl_divergence(one, other) for one, other in zip(*parts, strict=True)]
    torch.testing.assert_close(policies.kl(rows, others), kls[0] + kls[1] + kls[2].sum(-1))


def test_tanh_changes_the_entropy_and_no_log_probability() -> None:
    rows = rows_of(BOX, 0, 6)
    clip, bent = Policies(BOX, "clip"), Policies(BOX, "tanh")
    actions = clip.sample(rows, torch.Generator().manual_seed(0))
    assert torch.equal(clip.log_prob(rows, actions), bent.log_prob(rows, actions))
    assert (bent.entropy(rows) < clip.entropy(rows)).all()
    assert torch.equal(bent.drawn_entropy(rows), clip.entropy(rows))
    assert bent.entropy(rows).max() < 2 * log(2)


def test_what_the_environment_is_given_lies_within_the_bounds() -> None:
    drawn = torch.tensor([[2.0, 1.0, 0.5, -3.0]])
    # By hand: the choices stay, 0.5 and -3 are cut to 0.5 and -1, or bent to tanh of them.
    assert Policies(MIXED, "clip").executed(drawn).tolist() == [[2, 1, 0.5, -1]]
    assert Policies(MIXED, "tanh").executed(drawn)[0].tolist() == pytest.approx([2, 1, tanh(0.5), tanh(-3)])


def test_the_latent_model_gets_columns_of_choices_and_squashed_numbers() -> None:
    # The second factor's choices begin behind the three of the first.
    assert Policies(MIXED, "clip").indexed(torch.tensor([[2.0, 1.0, 0.5, -3.0]])).tolist() == [[2, 4, 0.5, -1]]
    assert Policies(BOX, "tanh").indexed(torch.tensor([[0.5, 9.0]]))[0].tolist() == pytest.approx([tanh(0.5), tanh(9)])


def test_the_mode_is_the_likeliest_choices_and_the_means() -> None:
    row = torch.tensor([[0.0, 3.0, 1.0, 2.0, 1.0, 0.25, -4.0, 1.0, 1.0]])
    assert Policies(MIXED, "clip").mode(row).tolist() == [[1, 0, 0.25, -4]]


def test_the_log_stds_are_those_of_the_numbers() -> None:
    row = torch.tensor([[0.0, 3.0, 1.0, 2.0, 1.0, 0.25, -4.0, -1.0, 2.0]])
    assert Policies(MIXED, "clip").log_stds(row).tolist() == [[-1, 2]]


@pytest.mark.parametrize(("sizes", "factored"), [((3,), False), ((3, 2), True)])
def test_choices_alone_are_the_categorical_distribution_to_the_bit(sizes: tuple[int, ...], factored: bool) -> None:
    action = ActionSpace(sizes, factored)
    policies, rows = Policies(action, "clip"), rows_of(action, 0, 4, 5)
    normalised = distribution.log_softmax(rows, sizes)
    actions = distribution.sample(rows, sizes, factored=factored, generator=torch.Generator().manual_seed(1))
    other = distribution.log_softmax(rows_of(action, 1, 4, 5), sizes)
    assert torch.equal(policies.normalise(rows), normalised)
    assert torch.equal(policies.sample(rows, torch.Generator().manual_seed(1)), actions)
    assert torch.equal(
        policies.log_prob(normalised, actions), distribution.log_prob(normalised, actions, sizes, factored=factored)
    )
    assert torch.equal(
        policies.log_ratio(normalised, other, actions),
        distribution.log_prob(normalised - other, actions, sizes, factored=factored),
    )
    assert torch.equal(policies.entropy(normalised), distribution.entropy(normalised))
    assert torch.equal(policies.indexed(actions), distribution.action_columns(actions, sizes, factored=factored))
    assert policies.executed(actions) is actions


def test_draws_of_a_mixed_action_are_independent_and_as_likely_as_they_say() -> None:
    # Three standard errors of 40,000 draws: 0.0075 of a probability of a half, 3 / 200 = 0.015 of a mean with deviation 1.
    logits = torch.log(torch.tensor([0.2, 0.5, 0.3, 0.5, 0.5]))
    row = torch.cat([logits, torch.tensor([1.0, -1.0, 0.0, 0.0])])
    drawn = Policies(MIXED, "clip").sample(row.expand(40_000, -1), torch.Generator().manual_seed(0)).numpy()
    assert np.bincount(drawn[:, 0].astype(int)) / 40_000 == pytest.approx([0.2, 0.5, 0.3], abs=0.0075)
    assert drawn[:, 2:].mean(0) == pytest.approx([1, -1], abs=0.015)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.015
