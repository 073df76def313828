"""`oatmill probe`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deploy.cli.groups import OneCheckpoint
from deploy.cli.options import JsonOption, TrustOption, print_json


def probe(
    *,
    chosen: OneCheckpoint,
    states: Annotated[int, typer.Option("--states", metavar="N", min=2, help="Number of states.")] = 200,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Seed of environments and actions.")] = 0,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take every action in the states of a run, and compare the results with what its model predicts."""
    from agent.checkpoint_manifest import find_checkpoint  # noqa: PLC0415
    from runner.user_code_process import UserCodeProcess  # noqa: PLC0415

    find_checkpoint(chosen.folder)
    options = {"path": str(chosen.folder), "states": states, "seed": seed, "trust": trust}
    with UserCodeProcess("runner.evaluation.probing", options, what="the environment", shown=True, threads=None) as probing:
        found: dict[str, Any] = probing.result()
        for note in probing.finish():
            typer.echo(note, err=True)
    if as_json:
        print_json(found)
        return
    for line in probe_lines(found):
        typer.echo(line)


def probe_lines(found: dict[str, Any]) -> list[str]:
    """The result as text.

    Args:
        found: the fields of `runner.evaluation.probing.Probe`.
    """
    lines = [
        f"checkpoint      {found['checkpoint']}",
        f"states          {found['states']}, with all {found['actions']} actions taken in each",
        f"action effect   q differs between actions {found['spread']:.3f} times as much as between states",
    ]
    if found["correlation"] is None:
        return [*lines, "model           none was trained (trainer.losses.dynamics.enabled)"]
    return [
        *lines,
        f"model           correlation of {found['correlation']:.2f} with the environment's q, within a state",
        f"best action     the same in {found['same_best']:.0%} of the states; by chance {1 / found['actions']:.0%}",
    ]
