"""Action masks in a policy: probabilities, entropy and KL against float64 NumPy, gradients, and the masks of latent steps."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch

from agent.distribution import entropy, log_softmax
from agent.masks import allowed_in, allowed_of, following, masked, uniform_entropy
from agent.model import AgentModel, ModelNeeds
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from protocol.data.observations import ObservationDict
from protocol.data.spaces import ActionSpace, DictSpace, ObservationSpace, Spaces


def masked_spec(sizes: tuple[int, ...] = (4,), **settings: object) -> AgentSpec:
    keys = {
        "observation": ObservationSpace("vector", (3,), "float32"),
        "action_mask": ObservationSpace("mask", (sum(sizes),), "bool"),
    }
    spaces = Spaces(DictSpace.of(keys), ActionSpace(sizes, factored=len(sizes) > 1))
    plain = {"hidden_sizes": (8,), "value_head": "scalar", "model_hidden": 5}
    return AgentSpec(spaces, AgentSettings.model_validate(plain | settings))


def oracle(logits: np.ndarray, allowed: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Probabilities of each factor's allowed choices, in float64; 0 for the others."""
    parts, start = [], 0
    for size in sizes:
        part, may = logits[..., start : start + size].astype(np.float64), allowed[..., start : start + size]
        weights = np.where(may, np.exp(part - part.max(-1, keepdims=True)), 0.0)
        parts.append(weights / weights.sum(-1, keepdims=True))
        start += size
    return np.concatenate(parts, -1)


@pytest.mark.parametrize("sizes", [(5,), (3, 2)])
def test_probabilities_and_entropy_are_those_of_the_allowed_choices_alone(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    logits, allowed = rng.normal(scale=3, size=(64, 5)), rng.random((64, 5)) < 0.5
    allowed[:, 0] = allowed[:, 3] = True  # one of each factor
    log_probs = log_softmax(masked(torch.tensor(logits, dtype=torch.float32), torch.tensor(allowed)), sizes)
    expected = oracle(logits, allowed, sizes)
    np.testing.assert_allclose(log_probs.exp().numpy(), expected, atol=1e-6)
    assert (log_probs.exp().numpy()[~allowed] == 0).all()
    with np.errstate(divide="ignore", invalid="ignore"):
        entropies = -np.nan_to_num(expected * np.log(expected)).sum(-1)
    np.testing.assert_allclose(entropy(log_probs).numpy(), entropies, atol=1e-5)


def test_no_gradient_flows_into_a_choice_that_is_not_allowed_and_all_are_finite() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, 50.0]], requires_grad=True)
    other = log_softmax(masked(torch.tensor([[1.0, 0.0, -1.0, 7.0]]), torch.tensor([[True, True, True, False]])), (4,))
    log_probs = log_softmax(masked(logits, torch.tensor([[True, True, True, False]])), (4,))
    kl = (other.exp() * (other - log_probs)).sum() + (log_probs.exp() * (log_probs - other)).sum()
    (gradient,) = torch.autograd.grad(entropy(log_probs).sum() + log_probs[0, 1] + kl, logits)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 3] == 0
    assert (gradient[0, :3] != 0).all()


def test_a_row_that_allows_nothing_is_even_and_finite() -> None:
    # No agent acts in such a step, and what is computed of it is masked: it must only be finite.
    log_probs = log_softmax(masked(torch.tensor([[1.0, 2.0]]), torch.tensor([[False, False]])), (2,))
    assert log_probs[0].tolist() == pytest.approx([-log(2), -log(2)])


def test_further_columns_are_no_logits_and_stay() -> None:
    rows = torch.tensor([[1.0, 2.0, 0.25, -3.0]])  # two choices, then the mean and log std of a number
    assert masked(rows, torch.tensor([[True, False]]))[0].tolist() == [1.0, -1e9, 0.25, -3.0]
    assert masked(rows, None) is rows


def test_the_uniform_entropy_counts_what_is_allowed_of_each_factor() -> None:
    allowed = torch.tensor([[True, False, True, True, True], [True, False, False, False, True]])
    log_probs = log_softmax(masked(torch.randn(2, 5), allowed), (3, 2))
    assert uniform_entropy(log_probs, (3, 2)).tolist() == pytest.approx([2 * log(2), 0.0])


def test_the_masks_of_later_steps_are_worked_out_by_hand() -> None:
    allowed = torch.eye(3, dtype=torch.bool).unsqueeze(0)  # at step t the choice t alone
    ahead = following(allowed, 2, 3).float().argmax(-1)
    assert ahead.tolist() == [[[1, 2], [2, 2], [2, 2]]]  # behind the last step that one stands in
    # A single step that brings its own mask and the two that follow.
    assert following(allowed, 2, 1).float().argmax(-1).tolist() == [[[1, 2]]]


def test_the_mask_is_a_key_of_the_observation() -> None:
    mask = torch.ones(2, 4, 3, dtype=torch.bool)
    observations = ObservationDict({"observation": torch.zeros(2, 4, 3), "action_mask": mask})
    assert allowed_of(observations) is mask
    taken = allowed_in(observations)
    assert taken is not None
    assert taken.shape == (2, 3, 3)  # not of the last observation, on which nobody has acted yet
    assert allowed_in(torch.zeros(2, 4, 3)) is None


def test_the_network_masks_its_policy_and_those_of_its_model() -> None:
    model = AgentModel(masked_spec())
    allowed = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    allowed[..., 0] = True
    observations = ObservationDict({"observation": torch.randn(2, 5, 3), "action_mask": allowed})
    actions = torch.zeros(2, 5, dtype=torch.int32)
    outputs = model(observations, None, None, actions, ModelNeeds(2, 2, rewards_and_values=True))
    assert (outputs["logits_BTA"].softmax(-1) > 0).equal(allowed)
    assert (outputs["model_logits_BTKA"][:, :3].softmax(-1) > 0).equal(
        torch.stack([allowed[:, 1:4], allowed[:, 2:5]], 2)  # at t + 1 and t + 2
    )
    acted = model.act(observations[:, 0], model.initial_state(2))
    assert (acted.logits.softmax(-1) > 0).equal(allowed[:, 0])
