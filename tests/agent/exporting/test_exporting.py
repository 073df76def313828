"""Exported policies: each format gives the actions of `act` for every kind of space, for 1 row and for 64."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from agent.exporting.formats import EXTRA_FILE
from agent.exporting.policy import inputs_of
from agent.loading import LoadedAgent, load_model
from agent.model import AgentModel
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from oatmill.errors import UserError
from protocol.data.actions import to_environment
from protocol.data.spaces import ActionPart, ActionSpace, DictSpace, ObservationSpace, Spaces
from protocol.data.trajectory import Array

ROWS = 1000
TOLERANCE = 2e-5
"""Relative, and absolute; the largest differences seen are below 1e-5."""
VECTOR = ObservationSpace("vector", (6,), "float32")
CAMERA = ObservationSpace("image", (3, 20, 18), "uint8")
TOKENS = ObservationSpace("tokens", (9, 3), "uint8", (1.0, 8.0, 3.0), (2,), 3, (5, 5))
DISCRETE = ActionSpace((4,))
FROM_FIVE = ActionSpace((3,), True, parts=(ActionPart((), (), "int64", (0, 1), (5,)),))
BOX = ActionSpace((), True, (-2.0, 0.0), (2.0, 100.0), (ActionPart((), (2,), "float32", (0, 2)),))
MIXED = ActionSpace(
    (3, 2),
    True,
    (-1.0, 0.0, 5.0),
    (1.0, 9.0, 6.0),
    (
        ActionPart(("arm", 0), (2,), "float64", (2, 4)),
        ActionPart(("arm", 1), (1,), "int32", (4, 5)),
        ActionPart(("go",), (), "int64", (0, 1), (10,)),
        ActionPart(("grip",), (), "int64", (1, 2), (-1,)),
    ),
)
ALL = DictSpace.of(
    {
        "action_mask": ObservationSpace("mask", (4,), "bool"),
        "camera": CAMERA,
        "robot/place": VECTOR,
        "tokens": TOKENS,
        "speed": ObservationSpace("vector", (2,), "float64"),
    }
)
MASKED = DictSpace.of({"board": VECTOR, "action_mask": ObservationSpace("mask", (5,), "bool")})
LSTM = {"core": "lstm", "core_size": 16, "normalise_observations": True}
CASES: dict[str, tuple[ObservationSpace, ActionSpace, dict[str, Any]]] = {
    "vector, Discrete": (VECTOR, FROM_FIVE, {}),
    "Box, clip": (VECTOR, BOX, {"normalise_observations": True, "log_std": "state"}),
    "Box, tanh": (VECTOR, BOX, {"normalise_observations": True, "squash": "tanh", "value_head": "scalar"}),
    "image": (CAMERA, DISCRETE, {"encoder": "small_cnn"}),
    "Dict with a mask": (ALL, DISCRETE, {"normalise_observations": True}),
    "mask, MultiDiscrete": (MASKED, ActionSpace((3, 2), factored=True), {}),
    "LSTM, Dict of actions": (VECTOR, MIXED, LSTM),
}
OF_TORCH: dict[str, tuple[ObservationSpace, ActionSpace, dict[str, Any]]] = {
    "image, cnn, two trunks": (CAMERA, BOX, {"value_trunk": "separate"}),
    "Dict with a mask, GRU": (ALL, DISCRETE, {"core": "gru", "core_size": 16, "encoders": {"tokens": "token_attention"}}),
}


@cache
def agent_of(case: str) -> LoadedAgent:
    """An agent with random weights, and moments of 1,000 made-up vectors."""
    observation, action, settings = (CASES | OF_TORCH)[case]
    spec = AgentSpec(Spaces(observation, action), AgentSettings.model_validate({"hidden_sizes": (32, 32), "num_bins": 51, "value_range": 20.0, **settings}))
    torch.manual_seed(7)
    model = AgentModel(spec)
    with torch.no_grad():
        for head, std in ((model.policy, 0.5), (model.value, 0.1)):
            for parameter in head.parameters():
                parameter.normal_(std=std)
        if model.normaliser is not None:
            size = len(model.normaliser.mean)
            model.normaliser.merge(torch.tensor(1000.0).double(), torch.randn(size).double() * 3, torch.rand(size).double() * 4000)
    return LoadedAgent(model, {"learner_step": 3, "env_steps": 99, "policy_version": 7})


def observed(space: ObservationSpace, rows: int, seed: int) -> Any:
    """Observations as an environment gives them."""
    rng = np.random.default_rng(seed)
    if isinstance(space, DictSpace):
        return {path: observed(part, rows, seed) for path, part in space.parts}
    if space.kind == "vector":
        return rng.normal(size=(rows, *space.shape), scale=3).astype(space.dtype)
    if space.kind == "mask":
        mask = rng.random((rows, *space.shape)) < 0.5
        mask[np.arange(rows), rng.integers(3, size=rows)] = True
        mask[:, 3:] |= ~mask[:, 3:].any(1, keepdims=True)
        return mask
    tokens: Array = rng.integers(255, size=(rows, *space.shape)).astype(np.uint8)
    if space.kind == "tokens":
        tokens[..., 1] %= 3
        tokens[rng.random(tokens.shape[:2]) < 0.3] = 255
        tokens[:, -1] = 255
    return tokens


def fed(spec: AgentSpec, observations: Any) -> dict[str, Array]:
    """The exported policy's inputs by name."""
    arrays = list(observations.values()) if isinstance(observations, dict) else [observations]
    return dict(zip((port.name for port in inputs_of(spec)), arrays, strict=False))


def leaves(actions: Any, name: str = "action") -> dict[str, Array]:
    if isinstance(actions, dict | tuple):
        items = actions.items() if isinstance(actions, dict) else enumerate(actions)
        return {key: leaf for part, values in items for key, leaf in leaves(values, f"{name}/{part}").items()}
    return {name: actions}


def expected(agent: LoadedAgent, observations: Any, state: torch.Tensor) -> dict[str, Array]:
    """What the network computes, by the names of the exported policy's outputs."""
    agent._state = state
    taken = leaves(agent.act(observations, deterministic=True))
    action = agent.spec.spaces.action
    read = {path: torch.from_numpy(values) for path, values in observations.items()} if isinstance(observations, dict) else None
    output = agent.model.act(torch.from_numpy(observations) if read is None else read, state)
    rows = output.logits.numpy()
    choices = {"logits": rows[:, : action.num_logits]} if action.sizes else {}
    means, log_stds = np.split(rows[:, action.num_logits :], 2, -1)
    numbers = {"mean": means, "log_std": log_stds} if action.dimensions else {}
    states = {"next_state": output.core_state.numpy()} if state.shape[1] else {}
    return taken | choices | numbers | {"value": output.value.numpy()} | states


Runs = Callable[[dict[str, Array]], dict[str, Array]]


def onnx_runs(file: Path) -> Runs:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options)
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(None, given), strict=True))


def torch_runs(file: Path, format: str) -> Runs:
    extra = {EXTRA_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        load = torch.export.load if format == "torch" else torch.jit.load
        given: Any = {"extra_files": extra} if format == "torch" else {"_extra_files": extra}
        loaded: Any = load(io.BytesIO(file.read_bytes()), **given)
    module = loaded.module() if format == "torch" else loaded
    ports = json.loads(extra[EXTRA_FILE])
    names = [name for name, _, _ in json.loads(ports["outputs"])]
    order = [name for name, _, _ in json.loads(ports["inputs"])]

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(inputs[name]) for name in order))
        return dict(zip(names, (tensor.numpy() for tensor in found), strict=True))

    return run


def check(agent: LoadedAgent, runs: Runs, rows: int, sizes: tuple[int, ...]) -> float:
    """Compare all outputs for batches of several sizes, with the state carried on and reset here and there."""
    largest = 0.0
    for size in sizes:
        state = agent.model.initial_state(size)
        for step in range(-(-rows // size)):
            observations = observed(agent.spec.spaces.observation, size, seed=step)
            wanted = expected(agent, observations, state)
            given = fed(agent.spec, observations) | ({"state": state.numpy()} if state.shape[1] else {})
            found = runs(given)
            assert list(found) == list(wanted)
            for name, values in wanted.items():
                assert found[name].dtype == values.dtype, name
                assert found[name].shape == values.shape, name
                if values.dtype.kind == "i":
                    np.testing.assert_array_equal(found[name], values, name)
                else:
                    np.testing.assert_allclose(found[name], values, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
                    seen = np.abs(found[name].astype(np.float64) - values) / np.maximum(1, np.abs(values))
                    largest = max(largest, float(seen.max()))
            if state.shape[1]:
                state = torch.from_numpy(found["next_state"].copy())
                state[np.random.default_rng(step).random(size) < 0.2] = 0.0
    return largest


@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_gives_the_actions_of_act(case: str, tmp_path: Path, record_property: Any) -> None:
    agent = agent_of(case)
    exported = agent.export(tmp_path / "policy.onnx")
    assert exported.size == (tmp_path / "policy.onnx").stat().st_size
    runs = onnx_runs(tmp_path / "policy.onnx")
    largest = max(check(agent, runs, ROWS, (64,)), check(agent, runs, 20, (1,)))
    record_property("largest difference", largest)
    print("RESULT", case, largest, exported.size)
    
@pytest.mark.parametrize("case", OF_TORCH)
@pytest.mark.parametrize("format", ["torch", "torchscript"])
def test_torch(case: str, format: str, tmp_path: Path) -> None:
    agent = agent_of(case)
    exported = agent.export(tmp_path / "policy", format)
    runs = torch_runs(tmp_path / "policy", format)
    largest = max(check(agent, runs, ROWS, (64,)), check(agent, runs, 20, (1,)))
    print("RESULT", format, case, largest, exported.size)
