"""Checkpoints that are whole or absent: safetensors and JSON, never pickle.

A checkpoint is written to a fresh `step-N.tmp`, every file is synced, the manifest with the files' hashes comes last, and a
rename makes it visible; then `latest` is repointed. A crash at any point leaves the one before untouched.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agent.loading import MANIFEST, MODEL_FILE, file_digest, load_model, read_manifest
from learner.loss import Context
from learner.step import Updater
from protocol.errors import UserError

PRIOR_FILE = "prior.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
LATEST = "latest"
PREFIX = "step-"
GENERATOR = "generator"


class Progress(NamedTuple):
    """How far a run has come."""

    learner_step: int = 0
    env_steps: int = 0
    policy_version: int = -1
    seconds: float = 0.0


def save(folder: Path, updater: Updater, progress: Progress, *, keep: int) -> Path:
    """Write a checkpoint below `folder`, repoint `latest`, and remove all but the newest few.

    Args:
        folder: the run's `checkpoints`.
        updater: holds the networks and the optimiser.
        progress: goes into the manifest.
        keep: how many checkpoints stay.
    """
    context = updater.context
    final = folder / f"{PREFIX}{progress.learner_step}"
    if is_whole(final):
        return final
    working = folder / f"{final.name}.tmp"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    save_file(parameters(context.model), working / MODEL_FILE)
    save_file(parameters(context.prior), working / PRIOR_FILE)
    save_file(optimizer_tensors(updater), working / OPTIMIZER_FILE)
    names = (MODEL_FILE, PRIOR_FILE, OPTIMIZER_FILE)
    for name in names:
        sync(working / name)
    manifest = progress._asdict() | {
        "updates": updater.updates,
        "normaliser": context.normaliser.state(),
        "coefficient_scales": context.scales,
        "agent": context.model.spec.to_dict(),
        "trainer": context.trainer.model_dump(mode="json"),
        "files": {name: file_digest(working / name) for name in names},
    }
    (working / MANIFEST).write_text(json.dumps(manifest, indent=1))
    sync(working / MANIFEST)
    sync(working)
    shutil.rmtree(final, ignore_errors=True)  # there only if it is damaged and training came back to its step
    working.rename(final)
    sync(folder)
    point_latest(folder, final.name)
    remove_old(folder, keep)
    return final


def is_whole(checkpoint: Path) -> bool:
    """Whether a folder is a checkpoint whose files are as they were written."""
    try:
        read_manifest(checkpoint)
    except UserError:
        return False
    return True


def restore(folder: Path, updater: Updater) -> Progress:
    """Bring networks, optimiser, normaliser and random numbers back from a run's newest whole checkpoint.

    Args:
        folder: the run's `checkpoints`.
        updater: made from the same settings.

    Raises:
        UserError: if there is none, or it is of another network.
    """
    candidates = sorted(folder.glob(f"{PREFIX}*[0-9]"), key=step_of, reverse=True)
    problem = UserError(f"{folder} has no checkpoint to resume from; start without --resume")
    for candidate in candidates:
        try:
            manifest = read_manifest(candidate)
        except UserError as error:
            problem = error
            continue
        return apply(candidate, manifest, updater)
    raise problem


def apply(checkpoint: Path, manifest: dict[str, Any], updater: Updater) -> Progress:
    """Load one verified checkpoint."""
    context = updater.context
    load_model(context.model, checkpoint / MODEL_FILE)
    load_model(context.prior, checkpoint / PRIOR_FILE)
    load_optimizer(updater, load_file(checkpoint / OPTIMIZER_FILE), context)
    context.normaliser.load(manifest["normaliser"])
    context.scales.update(manifest["coefficient_scales"])
    updater.updates = manifest["updates"]
    return Progress(*(manifest[name] for name in Progress._fields))


def parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    """By name, on the CPU."""
    return {name: value.detach().cpu().contiguous() for name, value in model.named_parameters()}


def optimizer_tensors(updater: Updater) -> dict[str, Tensor]:
    """The optimiser's state by the trained parameters' positions, and the state of the random numbers."""
    tensors = {GENERATOR: updater.context.generator.get_state()}
    for position, state in updater.optimizer.state_dict()["state"].items():
        tensors |= {f"{position}/{name}": value.cpu().contiguous() for name, value in state.items()}
    return tensors


def load_optimizer(updater: Updater, tensors: dict[str, Tensor], context: Context) -> None:
    """What `optimizer_tensors` gave."""
    context.generator.set_state(tensors.pop(GENERATOR))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        position, name = key.split("/")
        state.setdefault(int(position), {})[name] = value
    whole = updater.optimizer.state_dict()
    if state and set(state) != set(range(len(updater.parameters))):
        raise UserError(
            f"the checkpoint trained {len(state)} arrays and these settings train {len(updater.parameters)}; resume with the "
            "losses that it was trained with, or start a new run"
        )
    updater.optimizer.load_state_dict(whole | {"state": state})


def point_latest(folder: Path, name: str) -> None:
    """Make `latest` a link to a checkpoint, at once for whoever looks."""
    link = folder / f"{LATEST}.tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.rename(folder / LATEST)


def remove_old(folder: Path, keep: int) -> None:
    """Remove all but the newest few."""
    for old in sorted(folder.glob(f"{PREFIX}*[0-9]"), key=step_of)[:-keep]:
        shutil.rmtree(old)


def step_of(path: Path) -> int:
    """N of `step-N`."""
    return int(path.name.removeprefix(PREFIX))


def sync(path: Path) -> None:
    """Make a file's bytes or a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
