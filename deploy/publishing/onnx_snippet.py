"""Code for a model card that plays one episode with onnxruntime, for the policy's own spaces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agent.exporting.formats import Exported
from agent.spec import AgentSpec
from protocol.data.spaces import ACTION_MASK, ActionPart, ObservationSpace


def onnx_snippet(repository: str, env: Mapping[str, Any], spec: AgentSpec, exported: Exported) -> list[str]:
    """The lines of the code.

    Args:
        repository: NAMESPACE/NAME.
        env: the settings of `env` that may be shown.
        spec: the network's.
        exported: the ONNX file.
    """
    actions = [port.name for port in exported.outputs if port.name.split("/")[0] == "action"]
    imports, env_line = _environment(env)
    wanted = [*actions, *(["next_state"] if spec.core_state_size else [])]
    names = ["action"] if len(actions) == 1 else [f"action_{place}" for place in range(len(actions))]
    results = ", ".join([*names, *(["state"] if spec.core_state_size else [])])
    given = 'given = observation if isinstance(observation, dict) else {"observation": observation}'
    return [
        *imports,
        "import numpy as np",
        "import onnxruntime",
        "from huggingface_hub import hf_hub_download",
        "",
        f'policy = onnxruntime.InferenceSession(hf_hub_download("{repository}", "policy.onnx"))',
        env_line,
        "observation, info = env.reset()",
        *([f'state = np.zeros((1, {spec.core_state_size}), "float32")'] if spec.core_state_size else []),
        "over = False",
        "while not over:",
        *([f"    {given}"] if spec.spaces.masked else []),
        "    inputs = {  # a batch of one observation",
        *(f"        {line}," for line in _inputs(spec, [port.name for port in exported.inputs])),
        "    }",
        f"    {results}{'' if ', ' in results else ','} = policy.run({json.dumps(wanted)}, inputs)",
        f"    observation, reward, terminated, truncated, info = env.step({_action(spec.spaces.action.parts, names)})",
        "    over = terminated or truncated",
    ]


def _environment(env: Mapping[str, Any]) -> tuple[list[str], str]:
    """The imports, and the line that makes one environment."""
    arguments = f", **{dict(env['kwargs'])!r}" if env.get("kwargs") else ""
    comment = "  # in the wrappers of env.wrappers in config.yaml" if env.get("wrappers") else ""
    match env["kind"]:
        case "gymnasium":
            return ["import gymnasium"], f"env = gymnasium.make({json.dumps(env['id'])}{arguments}){comment}"
        case "factory":
            module, _, function = env["factory"].partition(":")
            outer = function.partition(".")[0]
            return [f"from {module} import {outer}"], f"env = {function}({arguments.removeprefix(', ')}){comment}"
        case kind:
            return [], f"env = ...  # one environment with the observations that env.kind={kind} gives"


def _inputs(spec: AgentSpec, names: Sequence[str]) -> list[str]:
    """The entries of the inputs, in the order of `names`."""
    entries = [_entry(spec, path, part) for path, part in spec.spaces.observation.parts] + ["state"]
    return [f"{json.dumps(name)}: {entry}" for name, entry in zip(names, entries, strict=False)]


def _entry(spec: AgentSpec, path: str, part: ObservationSpace) -> str:
    """One key of the observation as an array with an axis of one row."""
    if part.kind == "mask":
        return f'np.hstack(info.get("{ACTION_MASK}", given.get("{ACTION_MASK}"))).astype(bool)[None]'
    keys = "".join(f"[{key}]" if key.isdigit() else f"[{json.dumps(key)}]" for key in path.split("/") if key)
    array = f'np.asarray({"given" if spec.spaces.masked else "observation"}{keys}, "{part.dtype}")'
    return f"{array}.reshape(1, {part.shape[0]})" if part.kind == "vector" else f"{array}[None]"


def _action(parts: Sequence[ActionPart], names: Sequence[str]) -> str:
    """The first row of each action, in the structure that the environment takes."""
    leaves: list[tuple[tuple[str | int, ...], str]]
    leaves = [(part.path, f"{name}[0]") for part, name in zip(parts, names, strict=True)] if parts else [((), f"{names[0]}[0]")]
    return _structure(leaves)


def _structure(leaves: Sequence[tuple[tuple[str | int, ...], str]]) -> str:
    if not leaves[0][0]:
        return leaves[0][1]
    keys = list(dict.fromkeys(path[0] for path, _ in leaves))
    inner = {key: _structure([(path[1:], text) for path, text in leaves if path[0] == key]) for key in keys}
    if isinstance(keys[0], int):
        return f"({''.join(f'{inner[key]}, ' for key in sorted(keys)).strip()})"
    return f"{{{', '.join(f'{json.dumps(key)}: {text}' for key, text in inner.items())}}}"
