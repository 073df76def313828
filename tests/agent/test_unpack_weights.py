"""What travels becomes a network's parameters, number for number."""

from __future__ import annotations

import pytest
import torch

from agent.model import AgentModel, acting_arrays
from agent.unpack_weights import load_packed
from oatmill.errors import WireError
from protocol.data.weights import Weights, WireDtype
from tests.learner.worlds import OBSERVATION, make_spec


def made(seed: int, core: str = "lstm") -> AgentModel:
    model = AgentModel(make_spec(core=core))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def test_another_network_acts_alike_after_taking_the_weights() -> None:
    first, second = made(0), made(1)
    load_packed(second, Weights.pack(3, acting_arrays(first), "float32"))
    observations, state = torch.randn(4, OBSERVATION), torch.randn(4, 12)
    for one, other in zip(first.act(observations, state), second.act(observations, state), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.model_policy.weight, second.model_policy.weight)


def test_bfloat16_becomes_the_rounded_numbers() -> None:
    first, second = made(0), made(1)
    load_packed(second, Weights.pack(3, acting_arrays(first), "bfloat16"))
    for name, array in acting_arrays(first).items():
        expected = torch.from_numpy(array).to(torch.bfloat16).float()
        assert torch.equal(torch.from_numpy(acting_arrays(second)[name]), expected)


def test_memory_that_must_not_be_written_to_is_no_hindrance() -> None:
    first, second = made(0), made(1)
    weights = Weights.pack(3, acting_arrays(first), "float32")
    load_packed(second, Weights(3, bytes(weights.buffer), "float32", weights.digest))
    assert torch.equal(first.policy.weight, second.policy.weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_another_network_raise_an_error_and_change_nothing(dtype: WireDtype) -> None:
    model = made(0)
    before = {name: array.copy() for name, array in acting_arrays(model).items()}
    with pytest.raises(WireError, match=r"weights_layout: expected \d+ numbers for this network, got \d+"):
        load_packed(model, Weights.pack(3, acting_arrays(made(1, core="none")), dtype))
    assert all((before[name] == array).all() for name, array in acting_arrays(model).items())
