"""Exported policies: each format gives the actions of `act` for every kind of space, for 1 row and for 64."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent.exporting.formats import EXTRA_FILE
from agent.exporting.policy import inputs_of
from agent.loading import LoadedAgent
from agent.model import AgentModel
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from oatmill.errors import UserError
from protocol.data.spaces import ActionPart, ActionSpace, DictSpace, ObservationSpace, Spaces
from protocol.data.trajectory import Array

ROWS = 1000
TOLERANCE = 5e-5
"""Of numbers, relative to those above 1."""
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
LSTM = {"core": "lstm", "core_size": 16, "normalize_observations": True}
CASES: dict[str, tuple[ObservationSpace, ActionSpace, dict[str, Any]]] = {
    "vector, Discrete": (VECTOR, FROM_FIVE, {}),
    "Box, clip": (VECTOR, BOX, {"normalize_observations": True, "log_std": "state"}),
    "Box, tanh": (VECTOR, BOX, {"normalize_observations": True, "squash": "tanh", "value_head": "scalar"}),
    "image": (CAMERA, DISCRETE, {"encoder": "small_cnn"}),
    "Dict with a mask": (ALL, DISCRETE, {"normalize_observations": True}),
    "mask, MultiDiscrete": (MASKED, ActionSpace((3, 2), factored=True), {}),
    "LSTM, Dict of actions": (VECTOR, MIXED, LSTM),
}
OF_TORCH: dict[str, tuple[ObservationSpace, ActionSpace, dict[str, Any]]] = {
    "two trunks, Box": (VECTOR, BOX, {"value_trunk": "separate"}),
    "Dict with a mask, GRU": (ALL, DISCRETE, {"core": "gru", "core_size": 16, "encoders": {"tokens": "token_attention"}}),
}


@cache
def agent_of(case: str) -> LoadedAgent:
    """An agent with random weights, and moments of 1,000 made-up vectors."""
    observation, action, settings = (CASES | OF_TORCH)[case]
    spec = AgentSpec(
        Spaces(observation, action),
        AgentSettings.model_validate({"hidden_sizes": (32, 32), "num_bins": 51, "value_range": 20.0, **settings}),
    )
    torch.manual_seed(7)
    model = AgentModel(spec)
    with torch.no_grad():
        for head, std in ((model.policy, 0.5), (model.value, 0.1)):
            for parameter in head.parameters():
                parameter.normal_(std=std)
        if model.normaliser is not None:
            size = len(model.normaliser.mean)
            model.normaliser.merge(
                torch.tensor(1000.0).double(), torch.randn(size).double() * 3, torch.rand(size).double() * 4000
            )
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


def torch_module(file: Path, kind: str) -> tuple[Any, dict[str, str]]:
    """A module and the metadata of a file in a format of torch."""
    extra = {EXTRA_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        content = io.BytesIO(file.read_bytes())
        if kind == "torch":
            return torch.export.load(content, extra_files=extra).module(), json.loads(extra[EXTRA_FILE])
        scripted = torch.jit.load(content, _extra_files=extra)  # type: ignore[no-untyped-call]
        return scripted, json.loads(extra[EXTRA_FILE])


def torch_runs(file: Path, kind: str) -> Runs:
    module, about = torch_module(file, kind)
    order, names = ([name for name, _, _ in json.loads(about[way])] for way in ("inputs", "outputs"))

    def run(given: dict[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(given[name]) for name in order))
        return dict(zip(names, (tensor.numpy() for tensor in found), strict=True))

    return run


def check(agent: LoadedAgent, runs: Runs, rows: int, size: int) -> None:
    """Compare all outputs in batches of one size, with the state carried on and reset here and there."""
    state = agent.model.initial_state(size)
    for step in range(-(-rows // size)):
        observations = observed(agent.spec.spaces.observation, size, seed=step)
        wanted = expected(agent, observations, state)
        found = runs(fed(agent.spec, observations) | ({"state": state.numpy()} if state.shape[1] else {}))
        assert list(found) == list(wanted)
        for name, values in wanted.items():
            assert found[name].dtype == values.dtype, name
            assert found[name].shape == values.shape, name
            if values.dtype.kind == "i":
                np.testing.assert_array_equal(found[name], values, name)
            else:
                difference = np.abs(found[name].astype(np.float64) - values) / np.maximum(1, np.abs(values))
                assert difference.max() < TOLERANCE, name
        if state.shape[1]:
            state = torch.from_numpy(found["next_state"].copy())
            state[np.random.default_rng(step).random(size) < 0.2] = 0.0


@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_gives_the_actions_of_act(case: str, tmp_path: Path) -> None:
    agent, file = agent_of(case), tmp_path / "policy.onnx"
    exported = agent.export(file)
    runs = onnx_runs(file)
    check(agent, runs, ROWS, 64)
    check(agent, runs, 20, 1)
    assert exported.size == file.stat().st_size


@pytest.mark.parametrize("kind", ["torch", "torchscript"])
@pytest.mark.parametrize("case", OF_TORCH)
def test_the_formats_of_torch_give_the_actions_of_act(case: str, kind: str, tmp_path: Path) -> None:
    agent, file = agent_of(case), tmp_path / "policy"
    agent.export(file, kind)
    runs = torch_runs(file, kind)
    check(agent, runs, ROWS, 64)
    check(agent, runs, 20, 1)


def test_weights_load_again_by_the_lines_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of("LSTM, Dict of actions")
    agent.export(tmp_path / "policy.safetensors", "safetensors")
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "export.md").read_text()
    (lines,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "safe_open" in block)
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(lines, made)
    assert made["about"]["learner_step"] == 3
    assert made["agent"].spec == agent.spec
    check(made["agent"], lambda given: expected(agent, given["observation"], torch.from_numpy(given["state"])), 128, 64)


def test_inputs_and_outputs_are_named_in_the_file(tmp_path: Path) -> None:
    agent = agent_of("LSTM, Dict of actions")
    exported = agent.export(tmp_path / "policy", "torchscript")
    assert exported.inputs == [("observation", "float32", (6,)), ("state", "float32", (32,))]
    assert exported.outputs == [
        ("action/arm/0", "float64", (2,)),
        ("action/arm/1", "int32", (1,)),
        ("action/go", "int64", ()),
        ("action/grip", "int64", ()),
        ("logits", "float32", (5,)),
        ("mean", "float32", (3,)),
        ("log_std", "float32", (3,)),
        ("value", "float32", ()),
        ("next_state", "float32", (32,)),
    ]
    assert "transition" not in dict(torch_module(tmp_path / "policy", "torchscript")[0].named_parameters())
    about = {name: json.loads(text) for name, text in torch_module(tmp_path / "policy", "torchscript")[1].items()}
    assert AgentSpec.from_dict(about) == agent.spec


class Branching(torch.nn.Module):
    """A network that no graph can hold: it reads its input."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(inputs, width)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        encoded: torch.Tensor = self.layer(observations if observations.max() > 1 else -observations)
        return encoded


def branching(spec: AgentSpec) -> torch.nn.Module:
    return Branching(spec.spaces.observation.shape[0], spec.settings.hidden_sizes[-1])


@pytest.mark.parametrize("kind", ["torch", "torchscript"])
def test_a_network_that_cannot_be_traced_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    settings = AgentSettings(encoder=f"{__name__}:branching", hidden_sizes=(8,))
    agent = LoadedAgent(AgentModel(AgentSpec(Spaces(VECTOR, DISCRETE), settings)), {})
    with pytest.raises(UserError, match=f"cannot be exported as {kind}: .*; avoid branches on numbers in tensors") as refused:
        agent.export(tmp_path / "policy", kind)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    agent.export(tmp_path / "policy.safetensors", "safetensors")


def test_a_format_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a format of onnx, torch, torchscript, safetensors, got 'tflite'"):
        agent_of("vector, Discrete").export(tmp_path / "policy", "tflite")


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs onnx and onnxscript, .*; pip install 'oatmill\[export\]'"):
        agent_of("vector, Discrete").export(tmp_path / "policy")


@pytest.mark.parametrize(
    ("place", "says"),
    [("nowhere/policy.pt", "there is no folder"), ("taken", "it is a folder"), ("a" * 300, "File name too long")],
)
def test_a_file_that_cannot_be_written_is_told(place: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match=f"cannot be written: {says}"):
        agent_of("vector, Discrete").export(tmp_path / place, "safetensors")
