from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.policy import ActingPolicy, draw
from agent.model import AgentModel, acting_arrays, acting_layout
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from oatmill.errors import WireError
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.data.trajectory import Array
from protocol.data.weights import Weights
from tests.learner.worlds import make_action

SPACES = Spaces(ObservationSpace("vector", (3,), "float32"), ActionSpace((4,)))
OBSERVATIONS = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def settings(core: str = "none") -> AgentSettings:
    return AgentSettings.model_validate({"hidden_sizes": (8,), "core": core, "core_size": 5, "num_bins": 11})


def weights_of(spec: AgentSpec, version: int, scale: float) -> tuple[Weights, AgentModel]:
    model = AgentModel(spec).eval()
    model.load_state_dict({name: value * scale for name, value in model.state_dict().items()})
    return Weights.pack(version, acting_arrays(model), "float32"), model


def frequencies(logits: Array, sizes: tuple[int, ...], draws: int) -> Array:
    rows = np.repeat(logits[None], draws, 0).astype(np.float32)
    drawn = draw(rows, sizes, np.random.default_rng(0), np.empty_like(rows))
    return np.stack([np.bincount(column, minlength=max(sizes)) / draws for column in drawn.T])


def test_actions_are_drawn_as_often_as_their_probabilities_say() -> None:
    # Three standard errors of 40,000 draws at p = 0.5 are 3 * sqrt(0.25 / 40000) = 0.0075. A constant changes nothing.
    probabilities = np.array([0.1, 0.25, 0.65])
    assert frequencies(np.log(probabilities) + 7, (3,), 40_000)[0] == pytest.approx(probabilities, abs=0.0075)


def test_factors_are_drawn_independently_of_one_another() -> None:
    logits = np.log(np.array([0.9, 0.1, 0.2, 0.3, 0.5]))
    drawn = frequencies(logits, (2, 3), 40_000)
    assert drawn[0, :2] == pytest.approx([0.9, 0.1], abs=0.0075)
    assert drawn[1] == pytest.approx([0.2, 0.3, 0.5], abs=0.0075)
    rows = np.repeat(np.zeros((1, 4), np.float32), 40_000, 0)
    pairs = draw(rows, (2, 2), np.random.default_rng(0), np.empty_like(rows))
    # Even choices give each of the four pairs a quarter; the standard error is sqrt(3/16 / 40000) = 0.0022.
    assert np.bincount(pairs[:, 0] * 2 + pairs[:, 1]) / 40_000 == pytest.approx([0.25] * 4, abs=0.0066)


class DrawsZero(np.random.Generator):
    """Draws the rarest number there is, once in 8 million times: 0, for the second choice."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def standard_exponential(self, *_: Any, out: Array, **__: Any) -> Array:  # type: ignore[override]
        out[:] = [1.0, 0.0]
        return out


def test_a_waiting_time_of_zero_does_not_make_an_impossible_action_win() -> None:
    # -log 0 is infinite and would beat any logit; 2^-24 gives -60 + 16.6 against 0.
    logits = np.array([[0.0, -60.0]], np.float32)
    assert draw(logits, (2,), DrawsZero(), np.empty_like(logits)).tolist() == [[0]]


def test_what_is_recorded_is_what_the_network_computes_with_the_loaded_weights() -> None:
    spec = AgentSpec(SPACES, settings())
    policy = ActingPolicy(spec, rows=2, seed=0)
    assert policy.version == -1
    weights, model = weights_of(spec, version=12, scale=3.0)
    policy.load(weights)
    acted = policy.act(OBSERVATIONS)
    import torch

    expected = model.act(torch.from_numpy(OBSERVATIONS), model.initial_state(2))
    np.testing.assert_array_equal(acted.logits, expected.logits.numpy())
    np.testing.assert_array_equal(acted.value, expected.value.numpy())
    assert policy.version == 12
    assert acted.actions.shape == (2,)
    assert np.all((acted.actions >= 0) & (acted.actions < 4))


def test_weights_of_another_network_are_rejected() -> None:
    other = AgentSpec(SPACES, settings().model_copy(update={"hidden_sizes": (9,)}))
    policy = ActingPolicy(AgentSpec(SPACES, settings()), rows=2, seed=0)
    with pytest.raises(WireError, match="weights_layout"):
        policy.load(weights_of(other, version=1, scale=1.0)[0])
    assert policy.version == -1
    assert policy.layout == acting_layout(AgentModel(AgentSpec(SPACES, settings())))


@pytest.mark.parametrize("core", ["gru", "lstm"])
def test_only_reset_rows_lose_their_recurrent_state(core: str) -> None:
    spec = AgentSpec(SPACES, settings(core))
    weights, _ = weights_of(spec, version=0, scale=2.0)
    policy, fresh = ActingPolicy(spec, rows=2, seed=0), ActingPolicy(spec, rows=2, seed=0)
    policy.load(weights)
    fresh.load(weights)
    assert not policy.core_state.any()
    policy.act(OBSERVATIONS)
    kept = policy.core_state
    assert kept.all()
    policy.start_anew(np.array([True, False]))
    assert not policy.core_state[0].any()
    assert policy.core_state[1].all()
    assert kept.all()  # a copy
    first, later = fresh.act(OBSERVATIONS).logits.copy(), policy.act(OBSERVATIONS).logits
    np.testing.assert_allclose(later[0], first[0], rtol=1e-6)
    assert np.abs(later[1] - first[1]).max() > 1e-4


def test_memory_that_cannot_be_written_or_is_not_contiguous_is_read_all_the_same() -> None:
    policy = ActingPolicy(AgentSpec(SPACES, settings()), rows=2, seed=0)
    expected = policy.act(OBSERVATIONS).logits.copy()
    frozen = OBSERVATIONS.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(policy.act(frozen).logits, expected)
    strided = np.zeros((2, 6), np.float32)
    strided[:, ::2] = OBSERVATIONS
    np.testing.assert_array_equal(policy.act(strided[:, ::2]).logits, expected)


def test_a_seed_brings_the_same_choices_back() -> None:
    def choices(seed: int) -> list[int]:
        policy = ActingPolicy(AgentSpec(SPACES, settings()), rows=2, seed=seed)
        policy.load(weights)
        return [int(action) for _ in range(20) for action in policy.act(OBSERVATIONS).actions]

    weights, _ = weights_of(AgentSpec(SPACES, settings()), version=0, scale=1.0)
    assert choices(1) == choices(1)
    assert choices(1) != choices(2)


def acting_with_numbers(sizes: tuple[int, ...], squash: str) -> tuple[ActingPolicy, AgentModel]:
    """A policy whose means lie well apart and whose deviations are 0.5."""
    agent_settings = AgentSettings.model_validate(
        {"hidden_sizes": (8,), "num_bins": 11, "log_std_init": -0.7, "squash": squash}
    )
    spec = AgentSpec(Spaces(SPACES.observation, make_action(sizes, numbers=2)), agent_settings)
    policy = ActingPolicy(spec, rows=20_000, seed=0)
    model = AgentModel(spec).eval()
    model.load_state_dict({name: value * (1 if "log_std" in name else 4) for name, value in model.state_dict().items()})
    policy.load(Weights.pack(0, acting_arrays(model), "float32"))
    return policy, model


@pytest.mark.parametrize("squash", ["clip", "tanh"])
@pytest.mark.parametrize("sizes", [(), (3,)])
def test_numbers_are_drawn_from_the_recorded_gaussian_and_executed_within_their_bounds(
    sizes: tuple[int, ...], squash: str
) -> None:
    policy, _ = acting_with_numbers(sizes, squash)
    acted = policy.act(np.repeat(OBSERVATIONS[:1], 20_000, 0))
    choices, numbers = acted.actions[:, : len(sizes)], acted.actions[:, len(sizes) :]
    assert acted.actions.dtype == acted.executed.dtype == np.float32
    mean, log_std = np.split(acted.logits[0, sum(sizes) :], 2)
    # Three standard errors of 20,000 draws: 3 * 0.5 / 141 = 0.011 of the mean, 3 / sqrt(40000) = 1.5 % of the deviation.
    assert numbers.mean(0) == pytest.approx(mean, abs=0.011)
    assert numbers.std(0) == pytest.approx(np.exp(log_std), rel=0.015)
    expected = np.tanh(numbers) if squash == "tanh" else np.clip(numbers, -1, 1)
    np.testing.assert_array_equal(acted.executed[:, len(sizes) :], expected)
    np.testing.assert_array_equal(acted.executed[:, : len(sizes)], choices)
    assert np.abs(numbers).max() > 1 > np.abs(expected).min()
    if sizes:
        assert set(np.unique(choices)) == {0, 1, 2}


def test_every_copy_of_a_number_is_sampled_separately() -> None:
    policy, _ = acting_with_numbers((), "clip")
    seen = np.repeat(OBSERVATIONS[:1], 20_000, 0)
    first, second = policy.act(seen).actions.copy(), policy.act(seen).actions
    assert (first != second).all()
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.03
