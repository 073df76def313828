"""What the learner publishes is what actors unpack: the same arrays in the same order, rounded to nearest even."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agent.model import AgentModel, acting_arrays, acting_layout
from learner.pack_weights import pack
from protocol.data.weights import Weights, WireDtype
from tests.learner.worlds import make_spec


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("core", ["none", "lstm"])
def test_packed_weights_are_those_that_numpy_would_pack(dtype: WireDtype, core: str) -> None:
    torch.manual_seed(0)
    model = AgentModel(make_spec(core=core))
    weights = pack(model, 7, dtype)
    weights.verify()
    assert weights == Weights.pack(7, acting_arrays(model), dtype)


def test_an_actor_unpacks_the_arrays_by_name() -> None:
    torch.manual_seed(0)
    model = AgentModel(make_spec())
    unpacked = pack(model, 0, "float32").unpack(acting_layout(model))
    for name, array in acting_arrays(model).items():
        np.testing.assert_array_equal(unpacked[name], array)


def test_packed_weights_in_use_do_not_change_and_unused_memory_is_reused() -> None:
    model = AgentModel(make_spec())
    first = pack(model, 0, "float32")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    part = memoryview(first.buffer)[4:8]  # a message that is under way
    del first
    second = pack(model, 1, "float32")
    place = np.frombuffer(second.buffer, np.uint8).ctypes.data
    assert part.tobytes() != bytes(memoryview(second.buffer)[4:8])
    second.verify()
    del second
    third = pack(model, 2, "float32")
    assert np.frombuffer(third.buffer, np.uint8).ctypes.data == place
