"""`oatmill export`."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.groups import OneCheckpoint
from deploy.cli.options import JsonOption, TrustOption, print_json


class Format(StrEnum):
    """The formats of `agent.exporting.formats.FORMATS`, which needs torch."""

    onnx = "onnx"
    torch = "torch"
    torchscript = "torchscript"
    safetensors = "safetensors"


def export(
    *,
    chosen: OneCheckpoint,
    format: Annotated[  # noqa: A002  (the option's name)
        Format,
        typer.Option(
            "--format",
            help="onnx (needs oatmill[export]), torch (torch.export), torchscript (deprecated by torch), or safetensors "
            "(weights only).",
        ),
    ] = Format.onnx,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="The output file. Default: policy.onnx, .pt2, .pt or .safetensors."),
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a trained policy to a file that runs without oatmill.

    It takes observations as the environment gives them, and returns deterministic actions as the environment takes them.
    """
    from agent.checkpoint_manifest import find_checkpoint  # noqa: PLC0415
    from agent.exporting.formats import FORMATS, check, write  # noqa: PLC0415
    from agent.loading import load  # noqa: PLC0415

    started = time.monotonic()
    path = output or Path(f"policy{FORMATS[format]}")
    check(path, format)
    agent = load(find_checkpoint(chosen.folder), trust=trust)
    exported = write(agent, path, format)
    if as_json:
        named = {way: [port._asdict() for port in getattr(exported, way)] for way in ("inputs", "outputs")}
        print_json(exported._asdict() | named | {"learner_step": agent.manifest["learner_step"]})
        return
    step, seconds = agent.manifest["learner_step"], time.monotonic() - started
    typer.echo(f"{path}: {format}, {exported.size / 1e6:.2f} MB, learner step {step}, {seconds:.1f} s")
    for way, ports in (("input", exported.inputs), ("output", exported.outputs)):
        for port in ports:
            typer.echo(f"{way:<8}{port.name:<16} {port.dtype:<8} [{', '.join(['N', *map(str, port.shape)])}]")
