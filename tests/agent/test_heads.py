"""Value heads: the squashing of returns, two-hot targets, and codecs that read back what they were trained to say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.heads import (
    CategoricalCodec,
    LatentHead,
    ScalarCodec,
    make_codec,
    nearest_bins,
    orthogonal_init,
    signed_hyperbolic,
    signed_parabolic,
)
from tests.learner import oracles


def test_the_squashing_of_returns_is_the_specifications_table() -> None:
    # h(x) = sqrt(x + 1) - 1 + 0.001 x.
    table = {0.5: 0.22524487, 1.0: 0.41521356, 10.0: 2.32662479, 100.0: 9.14987562, 1000.0: 31.63858404}
    numbers = torch.tensor(list(table), dtype=torch.float64)
    torch.testing.assert_close(
        signed_hyperbolic(numbers), torch.tensor(list(table.values()), dtype=torch.float64), atol=5e-9, rtol=0
    )
    torch.testing.assert_close(signed_hyperbolic(-numbers), -signed_hyperbolic(numbers))
    assert signed_hyperbolic(torch.zeros(())).item() == 0


@given(st.floats(-1e6, 1e6))
def test_the_inverse_undoes_the_squashing(x: float) -> None:
    there = signed_hyperbolic(torch.tensor(x, dtype=torch.float64))
    assert signed_parabolic(there).item() == pytest.approx(x, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("x", [1e-4, 1e-3, 0.1, 1.0, -1.0, 50.0, 1e4])
def test_the_inverse_keeps_float32s_precision(x: float) -> None:
    # The usual form of the inverse is wrong by 6e-5 here, whatever x is.
    there = signed_hyperbolic(torch.tensor(x, dtype=torch.float64)).float()
    assert signed_parabolic(there).item() == pytest.approx(x, rel=2e-6, abs=3e-7)


@settings(max_examples=100)
@given(st.floats(-15, 15), st.sampled_from([3, 21, 601]), st.sampled_from([1.0, 10.0]))
def test_the_two_bins_around_a_number_have_it_as_their_mean(y: float, num_bins: int, limit: float) -> None:
    lower, weight = nearest_bins(torch.tensor(y, dtype=torch.float64), num_bins, limit)
    bins = np.linspace(-limit, limit, num_bins)
    mean = (1 - weight.item()) * bins[int(lower)] + weight.item() * bins[int(lower) + 1]
    assert mean == pytest.approx(min(max(y, -limit), limit), abs=1e-9)
    assert 0 <= weight <= 1


@pytest.mark.parametrize(
    ("y", "lower", "weight"), [(-1.0, 0, 0.0), (-9.0, 0, 0.0), (0.0, 2, 0.0), (0.25, 2, 0.5), (1.0, 3, 1.0), (9.0, 3, 1.0)]
)
def test_numbers_on_bins_and_beyond_the_range_by_hand(y: float, lower: int, weight: float) -> None:
    # Bins -1, -0.5, 0, 0.5, 1.
    found = nearest_bins(torch.tensor(y), 5, 1.0)
    assert (int(found[0]), found[1].item()) == (lower, weight)


def test_a_categorical_codecs_loss_is_the_cross_entropy_to_the_two_hot_target() -> None:
    rng = np.random.default_rng(0)
    codec = CategoricalCodec(21, 10.0)
    raw, targets = rng.normal(size=(50, 21)), np.concatenate([rng.uniform(-200, 200, 48), [0.0, 1e9]])
    loss = codec.loss(torch.from_numpy(raw), torch.from_numpy(targets))
    log_probs = np.log(oracles.softmax(raw))
    for row in range(50):
        expected = -(oracles.two_hot(oracles.squash(float(targets[row])), 21, 10.0) * log_probs[row]).sum()
        assert loss[row].item() == pytest.approx(expected, abs=1e-5)


def test_the_losss_gradient_is_the_softmax_minus_the_two_hot_target() -> None:
    codec = CategoricalCodec(5, 1.0)
    raw = torch.tensor([[0.1, 0.5, -0.2, 0.0, 0.3]], requires_grad=True)
    target = torch.tensor([0.3], requires_grad=True)
    torch.autograd.backward(codec.loss(raw, target).sum())
    assert raw.grad is not None
    two_hot = torch.from_numpy(oracles.two_hot(oracles.squash(0.3), 5, 1.0)).float()
    torch.testing.assert_close(raw.grad[0], raw.detach()[0].softmax(-1) - two_hot)
    assert target.grad is None


@pytest.mark.parametrize("x", [-250.0, -1.0, 0.0, 0.02, 3.0, 99.5])
def test_a_categorical_codec_reads_back_what_it_was_trained_to_say(x: float) -> None:
    codec = CategoricalCodec(601, 300.0)
    lower, weight = nearest_bins(signed_hyperbolic(torch.tensor([x])), 601, 300.0)
    probabilities = torch.zeros(1, 601)
    probabilities[0, lower], probabilities[0, lower + 1] = 1 - weight, weight
    assert codec.value(probabilities.clamp(min=1e-30).log()).item() == pytest.approx(x, rel=1e-3, abs=2e-4)


def test_an_untrained_head_predicts_0() -> None:
    head = LatentHead(6, 5, 601)
    raw = head(torch.randn(3, 6))
    assert raw.shape == (3, 601)
    assert CategoricalCodec(601, 300.0).value(raw).abs().max() < 1e-4
    assert ScalarCodec().value(LatentHead(6, 5, 1)(torch.randn(3, 6))).tolist() == [0, 0, 0]


def test_a_scalar_codecs_number_is_its_output_and_its_loss_half_the_squared_error() -> None:
    raw = torch.tensor([[3.0], [-1.0]], requires_grad=True)
    target = torch.tensor([1.0, 1.0], requires_grad=True)
    codec = ScalarCodec()
    assert codec.value(raw).tolist() == [3, -1]
    loss = codec.loss(raw, target)
    assert loss.tolist() == [2, 2]
    torch.autograd.backward(loss.sum())
    assert raw.grad is not None
    assert raw.grad.tolist() == [[2], [-2]]
    assert target.grad is None


def test_the_kind_of_head_chooses_the_codec() -> None:
    categorical = make_codec("categorical", num_bins=5, limit=2.0)
    assert isinstance(categorical, CategoricalCodec)
    assert (categorical.width, categorical.limit) == (5, 2.0)
    assert make_codec("scalar", num_bins=5, limit=2.0).width == 1


def test_orthogonal_rows_have_the_gain_as_their_length() -> None:
    layer = torch.nn.Linear(8, 3)
    orthogonal_init(layer, 0.5)
    torch.testing.assert_close(layer.weight @ layer.weight.T, 0.25 * torch.eye(3), atol=1e-6, rtol=0)
    assert layer.bias.abs().max() == 0
