"""Running mean and variance against NumPy over all vectors at once, and what travels of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.model import AgentModel, acting_layout, prior_of, saved_tensors
from agent.running_moments import RunningMoments
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from agent.unpack_weights import load_packed
from learner.pack_weights import pack
from oatmill.errors import UserError
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.data.weights import WireDtype
from tests.learner.worlds import make_spec


def merged(*parts: np.ndarray, clip: float = 10.0) -> RunningMoments:
    moments = RunningMoments(parts[0].shape[1], clip)
    for part in parts:
        wide = part.astype(np.float64)
        mean = wide.mean(0) if len(wide) else np.zeros(wide.shape[1])
        squares = ((wide - mean) ** 2).sum(0)
        moments.merge(torch.tensor(float(len(part)), dtype=torch.float64), torch.from_numpy(mean), torch.from_numpy(squares))
    return moments


def vectors(seed: int, n: int, mean: float, deviation: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, (n, 3)).astype(np.float32)


def test_moments_of_parts_are_those_of_all_vectors_at_once() -> None:
    parts = [vectors(0, 7, 5000.0, 100.0), vectors(1, 1, -3.0, 1.0), vectors(2, 40, 1e6, 0.5), vectors(3, 0, 0.0, 1.0)]
    moments, everything = merged(*parts), np.concatenate(parts).astype(np.float64)
    assert float(moments.count) == 48
    np.testing.assert_allclose(moments.mean.numpy(), everything.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.squares.numpy() / 48, everything.var(0), rtol=1e-12)


def test_vectors_come_out_with_mean_0_and_deviation_1_and_are_clipped() -> None:
    drawn = vectors(0, 5000, 1e4, 50.0)
    normalised = merged(drawn)(torch.from_numpy(drawn)).numpy()
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(normalised.std(0), 1, atol=1e-4)
    # By hand: 0 and 2 have mean 1 and deviation 1, so 4 becomes 3, and -100 is clipped.
    moments = merged(np.array([[0.0], [2.0]]), clip=5.0)
    torch.testing.assert_close(moments(torch.tensor([[4.0], [-100.0]])), torch.tensor([[3.0], [-5.0]]))


def test_before_the_first_vector_numbers_are_only_clipped() -> None:
    assert RunningMoments(2, 10.0)(torch.tensor([[3.0, -11.0]])).tolist() == [[3.0, -10.0]]


def test_a_number_that_never_varied_becomes_0_and_is_not_blown_up_when_it_does() -> None:
    moments = merged(np.full((9, 1), 0.1, np.float32), np.full((5, 1), 0.1, np.float32))
    assert moments.constant().tolist() == [True]
    assert float(moments(torch.tensor([[0.1]]))) == 0.0
    assert float(moments(torch.tensor([[0.6]]))) == pytest.approx(0.5)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_moments_that_are_not_finite_change_nothing(poison: float) -> None:
    moments = merged(vectors(0, 7, 5.0, 2.0))
    before = {name: buffer.clone() for name, buffer in moments.named_buffers()}
    with np.errstate(invalid="ignore"):
        moments.merge(torch.tensor(1.0).double(), torch.full((3,), poison).double(), torch.zeros(3).double())
    assert all(torch.equal(before[name], buffer) for name, buffer in moments.named_buffers())


def normalising_model(seed: int = 0) -> AgentModel:
    torch.manual_seed(seed)
    model = AgentModel(make_spec(normalize_observations=True))
    assert model.normaliser is not None
    rows = np.random.default_rng(seed).normal(5000, 123, (50, 4)) * [1, 1e-3, 1e3, 1e-20]
    moments = merged(rows)
    model.normaliser.merge(moments.count, moments.mean, moments.squares)
    return model


def same_outputs(first: AgentModel, second: AgentModel, observations: Tensor) -> bool:
    state = first.initial_state(len(observations))
    return all(map(torch.equal, first.act(observations, state), second.act(observations, state)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_actor_gets_the_statistics_to_the_bit_whatever_the_weights_travel_as(dtype: WireDtype) -> None:
    model, actor = normalising_model(), AgentModel(make_spec(normalize_observations=True))
    assert model.normaliser is not None
    assert actor.normaliser is not None
    weights = pack(model, 1, dtype)
    load_packed(actor, weights)
    assert torch.equal(actor.normaliser.offset, model.normaliser.offset)
    assert torch.equal(actor.normaliser.factor, model.normaliser.factor)
    assert [name for name, _ in acting_layout(actor)][-1] == "normaliser"
    assert weights.unpack(acting_layout(actor)).keys() == dict(acting_layout(actor)).keys()


def test_the_network_sees_what_the_normaliser_gives_and_the_prior_shares_its_statistics() -> None:
    model = normalising_model()
    assert model.normaliser is not None
    plain = AgentModel(make_spec())
    plain.load_state_dict(model.state_dict(), strict=False)
    raw = torch.tensor([[5000.0, 5.0, 5e6, 0.0], [4877.0, 4.8, 5.1e6, 0.0]])
    normalised = model.normaliser(raw)
    assert same_outputs(plain, model, raw) is False
    state = model.initial_state(2)
    assert torch.equal(model.act(raw, state).logits, plain.act(normalised, state).logits)
    prior = prior_of(model)
    assert prior.normaliser is model.normaliser
    assert not [name for name, parameter in prior.named_parameters() if parameter.requires_grad]


def test_a_checkpoint_holds_the_sums_and_nothing_that_follows_from_them() -> None:
    names = {name for name in saved_tensors(normalising_model()) if name.startswith("normaliser")}
    assert names == {"normaliser.count", "normaliser.mean", "normaliser.squares"}
    assert not any(name.startswith("normaliser") for name in saved_tensors(AgentModel(make_spec())))


def test_only_vectors_are_normalised() -> None:
    spaces = Spaces(ObservationSpace("image", (3, 8, 8), "uint8"), ActionSpace((2,)))
    with pytest.raises(UserError, match="normalises vectors, and this environment's observations are image; set it to false"):
        AgentSpec(spaces, AgentSettings(normalize_observations=True))


def test_vectors_of_a_dict_are_normalised_each_by_its_own_statistics_and_other_keys_stay() -> None:
    from protocol.data.observations import ObservationDict
    from protocol.data.spaces import DictSpace

    image, near, far = (
        ObservationSpace(*of)
        for of in (("image", (1, 4, 4), "uint8"), ("vector", (2,), "float32"), ("vector", (1,), "float32"))
    )
    spaces = Spaces(DictSpace.of({"camera": image, "near": near, "out/far": far}), ActionSpace((2,)))
    spec = AgentSpec(spaces, AgentSettings(hidden_sizes=(8,), normalize_observations=True))
    model = AgentModel(spec)
    assert model.normaliser is not None
    assert spec.normalised == {"near": 2, "out/far": 1}
    # By hand: means 1 and 100, deviations 1 and 10; the second number of `near` is 0 in both rows.
    moments = merged(np.array([[0.0, 0.0, 90.0], [2.0, 0.0, 110.0]]))
    model.normaliser.merge(moments.count, moments.mean, moments.squares)
    camera = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    raw = {"camera": camera, "near": torch.tensor([[4.0, 0.0], [1.0, 0.5]]), "out/far": torch.tensor([[120.0], [50.0]])}
    normalised = model.normalised(ObservationDict(raw))
    assert normalised["camera"] is camera
    torch.testing.assert_close(normalised["near"], torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    torch.testing.assert_close(normalised["out/far"], torch.tensor([[2.0], [-5.0]]), atol=1e-5, rtol=1e-5)
    assert torch.equal(model.encode(ObservationDict(raw)), model.encoder(normalised))
