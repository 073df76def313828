"""Loads a trained policy from a checkpoint for inference: `agent.load(path).act(observations)`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from agent.model import AgentModel, saved_tensors
from agent.spec import AgentSpec
from oatmill.errors import UserError, one_line
from oatmill.json_values import canonical_json
from oatmill.trust import untrusted
from protocol.data.actions import to_environment
from protocol.data.observations import ObservationDict
from protocol.data.spaces import ACTION_MASK, DictSpace, ObservationSpace, Spaces
from protocol.data.trajectory import Array

MANIFEST = "manifest.json"
MODEL_FILE = "model.safetensors"
FORMAT = 2
"""The manifest's format. Format 1 had no digest of the manifest itself."""
FORMAT_KEY, DIGEST_KEY = "format", "manifest_sha256"
NEEDED = ("agent", "learner_step", "env_steps", "policy_version", "files")
"""Required entries of a manifest, in format 1, too."""


def with_digest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest as it is written: converted to JSON values, with its format and digest added."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(manifest) | {FORMAT_KEY: FORMAT}))
    return plain | {DIGEST_KEY: manifest_digest(plain)}


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 in hex of a manifest's entries, except the digest itself; their order has no effect."""
    entries = {name: value for name, value in manifest.items() if name != DIGEST_KEY}
    return hashlib.sha256(canonical_json(entries)).hexdigest()


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and verify its digest and the hash of every file.

    Raises:
        UserError: if the folder is not a complete, undamaged checkpoint.
    """
    manifest = open_manifest(checkpoint)
    for name, expected in manifest["files"].items():
        path = checkpoint / name
        if not _is(path, expected):
            raise UserError(f"{path} is damaged or missing: its hash is not the one in {MANIFEST}; take an older checkpoint")
    return manifest


def open_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and verify its digest, but not the other files.

    Raises:
        UserError: if the manifest is missing or damaged.
    """
    path = checkpoint / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError:
        raise UserError(
            f"{checkpoint} is not a checkpoint: expected a folder with {MANIFEST}, such as runs/latest/checkpoints/latest"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is damaged: it is not JSON; take an older checkpoint") from None
    problem = problem_of(manifest)
    if problem:
        raise UserError(f"{path} is damaged: {problem}; take an older checkpoint")
    return dict(manifest)


def problem_of(manifest: object) -> str:
    """Why a manifest is invalid; empty if it is valid."""
    if not isinstance(manifest, dict):
        return f"expected a mapping, got {type(manifest).__name__}"
    # Checkpoints of format 1 have neither a format nor a digest.
    if FORMAT_KEY in manifest or DIGEST_KEY in manifest:
        if manifest.get(FORMAT_KEY) != FORMAT:
            return f"expected {FORMAT_KEY} {FORMAT}, got {manifest.get(FORMAT_KEY)!r}"
        if manifest.get(DIGEST_KEY) != manifest_digest(manifest):
            return "its digest is not that of its content"
    missing = [name for name in NEEDED if name not in manifest]
    if missing:
        return f"it has no {missing[0]}"
    return _problem_of_files(manifest["files"])


def _problem_of_files(files: object) -> str:
    if not isinstance(files, dict) or MODEL_FILE not in files:
        return f"its files do not include {MODEL_FILE}"
    return "" if all(Path(name).name == name for name in files) else "its files lie in other folders"


def _is(path: Path, digest: object) -> bool:
    try:
        return path.is_file() and file_digest(path) == digest
    except OSError:  # unreadable, or removed while it was read
        return False


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(model: AgentModel, path: Path) -> None:
    """Read parameters, and the normaliser's statistics, into a network.

    Raises:
        UserError: if the file belongs to another network; the message names the first array that
            differs.
    """
    stored = load_file(path)
    own = saved_tensors(model)
    _check_statistics(model, stored, path)
    for name in sorted(own.keys() | stored.keys()):
        expected = tuple(own[name].shape) if name in own else "nothing"
        came = tuple(stored[name].shape) if name in stored else "nothing"
        if expected != came:
            raise UserError(
                f"{path} belongs to another network: expected {expected} for {name}, got {came}; "
                "use the settings that it was trained with"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(stored[name])
    if model.normaliser is not None:
        model.normaliser.refresh()


def _check_statistics(model: AgentModel, stored: Mapping[str, Tensor], path: Path) -> None:
    """Whether a file holds statistics of observations exactly if the network has a normaliser."""
    wanted, there = model.normaliser is not None, "normaliser.mean" in stored
    if wanted != there:
        raise UserError(
            f"{path} was trained with agent.normalise_observations={str(there).lower()}, and these settings have "
            f"{str(wanted).lower()}: it holds {'' if there else 'no '}statistics of observations; use the setting that it was "
            "trained with, or start a new run"
        )


class LoadedAgent:
    """A policy that acts on batches of observations, carrying each row's recurrent state.

    Attributes:
        spec: the network's spaces and settings.
        manifest: the checkpoint's manifest (learner_step, env_steps, policy_version, ...).
    """

    def __init__(self, model: AgentModel, manifest: dict[str, Any], *, seed: int = 0) -> None:
        self.model = model.eval()
        self.spec = model.spec
        self.manifest = manifest
        self._state = model.initial_state(0)
        self._generator = torch.Generator().manual_seed(seed)

    def act(self, observations: Any, *, action_mask: Any = None, deterministic: bool = False) -> Any:
        """Choose an action for one observation, or one per row of a batch.

        Args:
            observations: one observation, or a batch `[N, ...]`, as an array or a list. For a Dict, a mapping with one of
                these per key; a nested key is `outer/inner`. N stays the same until `reset`.
            action_mask: `[N, A]`, or `[A]` for one observation, 1 for each allowed choice, as in `info["action_mask"]`.
                None if the observations contain it, or the network was trained without masks.
            deterministic: take the most likely choices and the means of numbers instead of sampling.

        Returns:
            Actions in the environment's format: int64 choices, `[N]` or `[N, factors]`; for a Box numbers in the
            environment's units and dtype, `[N, *shape]`; for a Tuple or Dict, tuples or dicts of such arrays. For one
            observation, one action without the `[N]`, which the environment's `step` takes.

        Raises:
            ValueError: if the shape or the dtype of the observations or the mask is not the one that the network was
                trained on.
        """
        given = observations if action_mask is None else with_mask(observations, action_mask, self.spec.spaces)
        batch, single = as_batch(given, self.spec.spaces.observation)
        rows = to_environment(self.act_in_rows(batch, deterministic=deterministic), self.spec.spaces.action)
        return first_row(rows) if single else rows

    def act_in_rows(self, observations: Any, *, deterministic: bool = False) -> Array:
        """Like `act`, but return actions in the format of `Environment.step`: numbers in -1..1.

        Raises:
            ValueError: like `act`.
        """
        read = readable(observations, self.spec.spaces.observation)
        count = len(next(iter(read.values())) if isinstance(read, dict) else read)
        if len(self._state) != count:
            self._state = self.model.initial_state(count)
        output = self.model.act(read, self._state)
        self._state = output.core_state
        policies = self.model.policies
        rows = output.logits
        actions = policies.mode(rows) if deterministic else policies.sample(rows, self._generator)
        return np.asarray(policies.executed(actions).numpy())

    def reset(self, rows: Array | None = None) -> None:
        """Reset the recurrent state after an episode has ended.

        Args:
            rows: indices or a bool mask of the rows to reset; None resets all.
        """
        if rows is None:
            self._state = self.model.initial_state(0)
        elif len(self._state):
            self._state = self._state.clone()
            self._state[torch.from_numpy(np.asarray(rows))] = 0.0


def as_batch(observations: Any, space: ObservationSpace) -> tuple[Any, bool]:
    """Observations as a batch, and whether they were a single one."""
    if isinstance(observations, Mapping):
        arrays = {path: np.asarray(values) for path, values in observations.items()}
        shapes = {path: part.shape for path, part in space.parts}
        single = all(array.shape == shapes.get(path) for path, array in arrays.items())
        return {path: array[None] if single else array for path, array in arrays.items()}, single
    array = np.asarray(observations)
    single = array.shape == space.shape
    return array[None] if single else array, single


def first_row(actions: Any) -> Any:
    """The action of the first row, of actions in the environment's format."""
    if isinstance(actions, dict):
        return {name: first_row(part) for name, part in actions.items()}
    return tuple(map(first_row, actions)) if isinstance(actions, tuple) else actions[0]


def with_mask(observations: Any, mask: Any, spaces: Spaces) -> Any:
    """Observations and the mask that came beside them, as the network takes them.

    Raises:
        ValueError: if the network was trained without masks.
    """
    if not spaces.masked:
        raise ValueError("expected no action_mask, because this network was trained without one")
    if isinstance(observations, Mapping):
        return {**observations, ACTION_MASK: mask}
    path = next(path for path, part in spaces.observation.parts if part.kind != "mask")
    return {path: observations, ACTION_MASK: mask}


def readable(observations: Any, space: ObservationSpace) -> Any:
    """Checked observations as tensors. torch wants memory that it may write to.

    Raises:
        ValueError: if a key is missing, or has another shape than the network was trained on.
    """
    if not isinstance(space, DictSpace):
        return _tensor(observations, space, "observations")
    paths = [path for path, _ in space.parts]
    if not isinstance(observations, Mapping) or sorted(observations) != paths:
        came = ", ".join(map(str, observations)) if isinstance(observations, Mapping) else type(observations).__name__
        raise ValueError(f"expected observations with the keys {', '.join(paths)}, got {came}")
    read = {path: _tensor(observations[path], part, f"observations of {path}") for path, part in space.parts}
    rows = {path: len(values) for path, values in read.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"expected as many rows of each key, got {rows}")
    return ObservationDict(read)


def _tensor(values: Any, space: ObservationSpace, what: str) -> torch.Tensor:
    array = np.asarray(values)
    if array.shape[1:] != space.shape:
        raise ValueError(f"expected {what} of shape [N, {', '.join(map(str, space.shape))}], got {array.shape}")
    if space.kind == "mask":
        if not ((array == 0) | (array == 1)).all():
            raise ValueError(f"expected {what} of 0 and 1, got {array.dtype} from {array.min()} to {array.max()}")
        array = array.astype(np.bool_)
    else:
        array = as_dtype(array, np.dtype(space.dtype), what)
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


def as_dtype(array: Array, dtype: np.dtype[Any], what: str) -> Array:
    """An array in the environment's dtype, if that loses nothing but precision: a list's numbers have other dtypes.

    Raises:
        ValueError: if it loses more.
    """
    whole = array.dtype.kind in "biu" and np.array_equal(array, array.astype(dtype))
    if not (whole or np.can_cast(array.dtype, dtype, "same_kind")):
        raise ValueError(f"expected {what} of dtype {dtype}, got {array.dtype}")
    return array.astype(dtype, copy=False)


def load(checkpoint: str | Path, *, seed: int = 0, trust: bool = False) -> LoadedAgent:
    """Load a checkpoint folder for inference on the CPU.

    Args:
        checkpoint: path of a `step-N` folder or of `latest`.
        seed: seed of the sampled actions.
        trust: allow the checkpoint to name a user's own encoder (`agent.encoder=module:make`), which is
            then imported and called. Checkpoints with oatmill's encoders run no foreign code and need
            no trust.

    Raises:
        UserError: if the folder is not a complete checkpoint, cannot be loaded, or names a user's own
            encoder without `trust`.
    """
    folder = Path(checkpoint)
    manifest = read_manifest(folder)
    with loading(folder):
        spec = AgentSpec.from_dict(manifest["agent"])
        if spec.settings.own_encoder and not trust:
            raise untrusted(folder, "agent.encoder", spec.settings.encoder)
        model = AgentModel(spec)
        load_model(model, folder / MODEL_FILE)
    return LoadedAgent(model, manifest, seed=seed)


@contextmanager
def loading(checkpoint: Path) -> Iterator[None]:
    """Turn any error while a checkpoint is loaded into a UserError that names the checkpoint."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{checkpoint} cannot be loaded: {one_line(error)}; take another checkpoint") from None
