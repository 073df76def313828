"""The formats that a policy is exported to."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import save

from agent.exporting.policy import ExportedPolicy, Port
from agent.model import saved_tensors
from oatmill.errors import UserError
from oatmill.files.atomic import replacing
from oatmill.user_code import place_of

if TYPE_CHECKING:
    from agent.loading import LoadedAgent

EXTRA_FILE = "oatmill.json"
"""Where the formats of torch have the metadata."""


class Exported(NamedTuple):
    """A file that was written.

    Attributes:
        path: the file.
        format: its format.
        size: its length in bytes.
        inputs: what the policy takes; empty for safetensors.
        outputs: what it returns; empty for safetensors.
    """

    path: str
    format: str
    size: int
    inputs: list[Port]
    outputs: list[Port]


def export(agent: LoadedAgent, path: Path, format: str) -> Exported:  # noqa: A002  (the option's name)
    """Write a policy; see `agent.loading.LoadedAgent.export`."""
    check(path, format)
    return write(agent, path, format)


def check(path: Path, format: str) -> None:  # noqa: A002  (the option's name)
    """Raise a UserError if a format does not exist, lacks a package, or cannot be written to this path."""
    if format not in FORMATS:
        raise UserError(f"expected a format of {', '.join(FORMATS)}, got {format!r}")
    check_output(path)
    check_packages(format)


def write(agent: LoadedAgent, path: Path, format: str) -> Exported:  # noqa: A002  (the option's name)
    """Write a policy after `check`."""
    metadata = {name: json.dumps(value) for name, value in metadata_of(agent).items()}
    policy = None
    if format == "safetensors":
        content = save({name: tensor.contiguous() for name, tensor in saved_tensors(agent.model).items()}, metadata)
    else:
        with tracing(format):
            policy = ExportedPolicy(agent.model)
            ports = {"inputs": policy.inputs, "outputs": policy.outputs}
            content = TRACED[format](policy, metadata | {name: json.dumps(value) for name, value in ports.items()})
    with writing(path), replacing(path) as working:
        working.write_bytes(content)
    return Exported(str(path), format, len(content), policy.inputs if policy else [], policy.outputs if policy else [])


def metadata_of(agent: LoadedAgent) -> dict[str, Any]:
    """What a file says about its policy: spaces, the network's settings, and how far it was trained."""
    progress = {name: agent.manifest.get(name) for name in ("learner_step", "env_steps", "policy_version")}
    return agent.spec.to_dict() | progress


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def check_output(path: Path) -> None:
    """Raise a UserError if a file cannot be at this path."""
    with writing(path):
        if not path.parent.is_dir():
            raise UserError(f"{path} cannot be written: there is no folder {path.parent}")
        if path.is_dir():
            raise UserError(f"{path} cannot be written: it is a folder; give a file")


def check_packages(format: str) -> None:  # noqa: A002  (the option's name)
    """Raise a UserError if a package that a format needs is missing."""
    needed = ("onnx", "onnxscript") if format == "onnx" else ()
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"format {format} needs {' and '.join(missing)}, which is not installed; pip install 'oatmill[export]'")


@contextmanager
def tracing(format: str) -> Iterator[None]:  # noqa: A002  (the option's name)
    """Trace without gradients and torch's remarks; an error becomes one line.

    Raises:
        UserError: if the network cannot be traced, as one with branches that depend on numbers in tensors.
    """
    levels = {log: log.level for log in map(logging.getLogger, ("torch.onnx", "onnxscript", "onnx_ir"))}
    try:
        with torch.no_grad(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # torch prints the graph of a failure
            warnings.simplefilter("ignore")
            for log in levels:
                log.setLevel(logging.ERROR)
            yield
    except Exception as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        place = place_of(error)
        raise UserError(
            f"the network cannot be exported as {format}: {type(error).__name__}: {line}{f' ({place})' if place else ''}; "
            "avoid branches on numbers in tensors, or use another format, such as safetensors"
        ) from error
    finally:
        for log, level in levels.items():
            log.setLevel(level)


def program_of(policy: ExportedPolicy) -> torch.export.ExportedProgram:
    """The policy's graph for any number of rows."""
    return torch.export.export(policy, policy.example, dynamic_shapes=rows_named(policy, torch.export.Dim("N", min=1)))


def rows_named(policy: ExportedPolicy, name: object) -> dict[str, Any]:
    """The name of the first axis, for each input."""
    return {"given": tuple({0: name} for _ in policy.inputs)}


def as_onnx(policy: ExportedPolicy, metadata: Mapping[str, str]) -> bytes:
    """An ONNX model with named inputs and outputs."""
    inputs, outputs = ([port.name for port in ports] for ports in (policy.inputs, policy.outputs))
    program = torch.onnx.export(
        program_of(policy),
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=rows_named(policy, "N"),  # which names the axis in the file
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the lines of source behind each node, with the paths of this machine
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString()
    return content


def as_torch(policy: ExportedPolicy, metadata: Mapping[str, str]) -> bytes:
    """A program of torch.export."""
    file = io.BytesIO()
    torch.export.save(program_of(policy), file, extra_files={EXTRA_FILE: json.dumps(metadata)})
    return file.getvalue()


def as_torchscript(policy: ExportedPolicy, metadata: Mapping[str, str]) -> bytes:
    """A TorchScript module."""
    program_of(policy)  # fails on branches that depend on numbers; a trace would keep the one that the example took
    file = io.BytesIO()
    traced = torch.jit.trace(policy, policy.example)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, file, _extra_files={EXTRA_FILE: json.dumps(metadata)})
    return file.getvalue()


TRACED: Mapping[str, Callable[[ExportedPolicy, Mapping[str, str]], bytes]] = {
    "onnx": as_onnx,
    "torch": as_torch,
    "torchscript": as_torchscript,
}
FORMATS: Mapping[str, str] = {"onnx": ".onnx", "torch": ".pt2", "torchscript": ".pt", "safetensors": ".safetensors"}
"""The usual ending of a file in each format."""
