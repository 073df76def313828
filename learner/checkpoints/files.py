"""Checkpoints, written atomically as safetensors and JSON, never as pickle.

A checkpoint is written to a new folder `step-N.tmp`, and every file is synced. The manifest is written
last, with the hashes of the files (`agent.checkpoint_manifest`). A rename makes the checkpoint visible. Then the
link `latest` points to it, and `best` if its return is the highest. A crash at any point leaves the
previous checkpoint intact. A checkpoint that cannot be loaded is skipped.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from agent.checkpoint_manifest import BEST, LATEST, MODEL_FILE, PLAYING, open_manifest, read_manifest, write_manifest
from agent.loading import load_model, loading
from agent.model import AgentModel, saved_tensors
from learner.loss import Context
from learner.progress import Progress
from learner.update.updater import Updater
from oatmill.errors import UserError
from oatmill.files.atomic import replace_link, sync_path
from oatmill.process.failpoints import failpoint

PRIOR_FILE = "prior.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
PREFIX = "step-"
GENERATOR = "generator."
BEST_EPISODES = 10
"""A checkpoint can be the best one only if its mean return is over at least this many episodes."""


@dataclass(frozen=True)
class Beside:
    """What a checkpoint contains besides networks, optimiser and the scale of advantages.

    Attributes:
        generators: the state of each rank's random number generator, in order of rank; if empty, only
            this rank's state is saved.
        state: the rest of the learner's state, as JSON values.
        settings: the run's settings as in config.yaml, so that the checkpoint can be evaluated
            without its run.
        episode_return: mean, std and n of the last episodes' returns; the mean is None without
            episodes.
        replay: the position in the replay server's log, {id, cursor, digest}; None if the server
            sent none.
    """

    generators: Sequence[Tensor] = ()
    state: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    episode_return: Mapping[str, Any] | None = None
    replay: Mapping[str, Any] | None = None


class Restored(NamedTuple):
    """The result of loading a checkpoint.

    Attributes:
        progress: the run's progress when it was saved.
        path: the checkpoint's folder.
        state: `Beside.state`.
        passed_over: one line for each newer checkpoint that could not be loaded.
        replay: `Beside.replay`.
    """

    progress: Progress
    path: Path
    state: Mapping[str, Any]
    passed_over: Sequence[str] = ()
    replay: Mapping[str, Any] | None = None


def save(folder: Path, updater: Updater, progress: Progress, *, keep: int, beside: Beside | None = None) -> Path:
    """Write a checkpoint, update the links `latest` and `best`, and remove old checkpoints.

    Args:
        folder: the run's folder `checkpoints`.
        updater: has the networks and the optimiser.
        progress: the run's progress, for the manifest.
        keep: the number of newest checkpoints to keep; the best one is also kept.
        beside: what else is saved.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: if it cannot be written; older checkpoints stay, and no partial one is left.
        SafetensorError: the same, from the library that writes arrays.
    """
    beside = beside or Beside()
    final = folder / f"{PREFIX}{progress.learner_step}"
    if saved_version(final) == progress.policy_version:
        return final
    folder.mkdir(exist_ok=True)  # not its parents: a run folder that was deleted stays so
    working = folder / f"{final.name}.tmp"
    shutil.rmtree(working, ignore_errors=True)
    try:
        write(working, updater, progress, beside)
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)  # frees the space on a full disk
        raise
    shutil.rmtree(final, ignore_errors=True)  # exists only if damaged, or if the run was rewound past it
    failpoint("checkpoint.rename.before")
    working.rename(final)
    sync_path(folder)
    failpoint("checkpoint.rename.after")
    replace_link(folder / LATEST, final.name)
    if not evaluated(beside.settings) and beats_best(folder, beside.episode_return):
        replace_link(folder / BEST, final.name)
    sync_path(folder)
    remove_old(folder, keep)
    return final


def write(working: Path, updater: Updater, progress: Progress, beside: Beside) -> None:
    """Write and sync a checkpoint's files in a new folder, the manifest last."""
    context = updater.context
    working.mkdir()
    save_file(parameters(context.model), working / MODEL_FILE)
    save_file(parameters(context.prior), working / PRIOR_FILE)
    save_file(optimizer_tensors(updater, beside.generators), working / OPTIMIZER_FILE)
    names = (MODEL_FILE, PRIOR_FILE, OPTIMIZER_FILE)
    for name in names:
        sync_path(working / name)
    entries = progress._asdict() | {
        "updates": updater.updates,
        "gradients_measured_at": updater.measured_at,
        "normaliser": context.advantage_scale.state(),
        "reward_scale": None if context.reward_scale is None else context.reward_scale.state(),
        "coefficient_scales": context.scales,
        "learner_state": beside.state,
        "episode_return": beside.episode_return,
        "agent": context.model.spec.to_dict(),
        "trainer": context.trainer.model_dump(mode="json"),
        "settings": beside.settings,
        "replay": beside.replay,
    }
    write_manifest(working, entries, names)
    sync_path(working)


def saved_version(checkpoint: Path) -> int | None:
    """The policy version of a complete checkpoint; None if the folder is not one."""
    try:
        return int(read_manifest(checkpoint)["policy_version"])
    except UserError:
        return None


def checkpoints_of(folder: Path) -> list[Path]:
    """The folders of all checkpoints, newest first; they may be damaged."""
    return sorted(folder.glob(f"{PREFIX}*[0-9]"), key=step_of, reverse=True)


def saved_encoder(folder: Path) -> str | None:
    """The `agent.encoder` of the newest checkpoint whose manifest can be read; None if there is none."""
    for checkpoint in checkpoints_of(folder):
        try:
            return str(open_manifest(checkpoint)["agent"]["settings"]["encoder"])
        except (UserError, KeyError, TypeError):
            continue  # `restore` says what is wrong with it
    return None


def newest_step(folder: Path, *, below: float = math.inf) -> int:
    """The learner step of the newest checkpoint below a step, or -1. It may be damaged."""
    return max((step for path in checkpoints_of(folder) if (step := step_of(path)) < below), default=-1)


def restore(
    folder: Path,
    updater: Updater,
    *,
    rank: int = 0,
    lowest: Callable[[float], float] = float,
    accept: Callable[[Mapping[str, Any]], None] = lambda _state: None,
) -> Restored:
    """Load networks, optimiser, scales and random numbers from the newest checkpoint that can be loaded.

    Args:
        folder: the run's folder `checkpoints`.
        updater: created from the same settings; it is loaded in place.
        rank: the rank whose random number generator is restored.
        lowest: returns the minimum of a number over all ranks, so that all load the same checkpoint.
        accept: called with `Restored.state`. If it raises, the checkpoint is skipped.

    Raises:
        UserError: if no checkpoint can be loaded; the message says why the newest one cannot.
    """
    passed_over: list[str] = []
    step = math.inf
    while (step := lowest(newest_step(folder, below=step))) >= 0:
        checkpoint = folder / f"{PREFIX}{int(step)}"
        problem, restored = "", None
        try:
            with loading(checkpoint):
                restored = load(checkpoint, updater, rank=rank)
                accept(restored.state)
        except UserError as error:
            problem = str(error)
        if lowest(not problem) and restored is not None:
            return restored._replace(passed_over=passed_over)
        passed_over.append(problem or f"{checkpoint} could not be loaded by another rank")
    if not passed_over:
        raise UserError(f"{folder} has no checkpoint to resume from; start without --resume, in another folder")
    others = f" (the {len(passed_over) - 1} before it cannot be loaded either)" if len(passed_over) > 1 else ""
    raise UserError(passed_over[0] + others)


def load(checkpoint: Path, updater: Updater, *, rank: int = 0) -> Restored:
    """Load one checkpoint.

    Args:
        checkpoint: the checkpoint's folder.
        updater: created from the same settings. After an error it may be partly loaded.
        rank: the rank whose random number generator is restored.

    Raises:
        UserError: if the checkpoint is damaged, or belongs to another network or other losses. Invalid
            content may also raise other exceptions.
    """
    manifest = read_manifest(checkpoint)
    context = updater.context
    load_model(context.model, checkpoint / MODEL_FILE)
    load_model(context.prior, checkpoint / PRIOR_FILE)
    tensors = load_file(checkpoint / OPTIMIZER_FILE)
    load_generator(context, {name: tensors.pop(name) for name in list(tensors) if name.startswith(GENERATOR)}, rank)
    load_optimizer(updater, tensors)
    context.advantage_scale.load(manifest["normaliser"])
    if context.reward_scale is not None:
        context.reward_scale.load(manifest.get("reward_scale"))
    context.scales.clear()
    context.scales.update(manifest["coefficient_scales"])
    updater.updates, updater.measured_at = manifest["updates"], manifest["gradients_measured_at"]
    progress = Progress(*(manifest[name] for name in Progress._fields))
    return Restored(progress, checkpoint, manifest["learner_state"], replay=manifest.get("replay"))


def parameters(model: AgentModel) -> dict[str, Tensor]:
    """A network's parameters and its normaliser's statistics by name, on the CPU."""
    return {name: value.cpu().contiguous() for name, value in saved_tensors(model).items()}


def optimizer_tensors(updater: Updater, generators: Sequence[Tensor]) -> dict[str, Tensor]:
    """The optimiser's state by parameter position, and each rank's random number generator."""
    states = generators or [updater.context.generator.get_state()]
    tensors = {f"{GENERATOR}{rank}": state for rank, state in enumerate(states)}
    for position, state in updater.optimizer.state().items():
        tensors |= {f"{position}/{name}": value.cpu().clone() for name, value in state.items()}
    return tensors


def load_generator(context: Context, states: Mapping[str, Tensor], rank: int) -> None:
    """Restore a rank's random number generator.

    It is left as it is if the checkpoint has no state of this rank, or one of another kind of device.
    """
    state = states.get(f"{GENERATOR}{rank}")
    if state is not None and state.shape == context.generator.get_state().shape:
        context.generator.set_state(state)


def load_optimizer(updater: Updater, tensors: Mapping[str, Tensor]) -> None:
    """Restore the optimiser from the result of `optimizer_tensors`, without the generators."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        position, name = key.split("/")
        state.setdefault(int(position), {})[name] = value
    if state and set(state) != set(range(len(updater.parameters))):
        raise UserError(
            f"the checkpoint has optimiser states for {len(state)} arrays, but these settings train {len(updater.parameters)}; "
            "resume with the same losses and trainer.freeze_parts, or start a new run"
        )
    updater.optimizer.load(state)


def evaluated(settings: Mapping[str, Any]) -> bool:
    """Whether the run has an evaluator, which then decides on the best checkpoint."""
    return bool((settings.get("evaluator") or {}).get("enabled"))


def beats_best(folder: Path, episode_return: Mapping[str, Any] | None) -> bool:
    """Whether the mean return of the last episodes is above that of the best checkpoint."""
    if episode_return is None or episode_return["mean"] is None or episode_return["n"] < BEST_EPISODES:
        return False
    try:
        best = open_manifest(folder / BEST)["episode_return"]["mean"]
    except (UserError, KeyError, TypeError):
        best = -math.inf
    return bool(episode_return["mean"] > best)


def remove_old(folder: Path, keep: int) -> None:
    """Remove all checkpoints except the newest `keep`, the best, and the one that the evaluator plays."""
    kept = {(folder / link).resolve().name for link in (BEST, PLAYING)}
    for old in checkpoints_of(folder)[keep:]:
        if old.name not in kept:
            shutil.rmtree(old)


def step_of(path: Path) -> int:
    """The number N of a folder `step-N`."""
    return int(path.name.removeprefix(PREFIX))
