"""Loads a trained policy from a checkpoint for inference: `agent.load(path).act(observations)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from agent.checkpoint_manifest import MODEL_FILE, read_manifest
from agent.model import AgentModel, saved_tensors
from agent.spec import AgentSpec
from oatmill.errors import UserError, one_line
from oatmill.trust import untrusted
from protocol.data.actions import to_environment
from protocol.data.observations import ObservationDict
from protocol.data.spaces import ACTION_MASK, DictSpace, ObservationSpace, Spaces
from protocol.data.trajectory import Array

if TYPE_CHECKING:
    from agent.exporting.formats import Exported


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
            f"{path} was trained with agent.normalize_observations={str(there).lower()}, and these settings have "
            f"{str(wanted).lower()}: it holds {'' if there else 'no '}statistics of observations; use the setting that it was "
            "trained with, or start a new run"
        )


class LoadedAgent:
    """A policy that acts on batches of observations and keeps the recurrent state of each row.

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
            deterministic: take the most likely choices and the means of continuous actions instead of sampling.

        Returns:
            Actions in the environment's format: int64 choices, `[N]` or `[N, factors]`; for a Box, floats in the
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

    def export(self, path: str | Path, format: str = "onnx") -> Exported:  # noqa: A002  (the command's option)
        """Write the policy to a file that runs without oatmill, like `oatmill export`.

        Args:
            path: the file; an old one is replaced.
            format: `onnx`, `torch` (torch.export), `torchscript`, or `safetensors` (weights only).

        Returns:
            The file's size, and the names, dtypes and shapes of inputs and outputs.

        Raises:
            UserError: if a package is missing, the network cannot be traced, or the file cannot be written.
        """
        from agent.exporting.formats import export  # noqa: PLC0415  (slow to import, and rarely used)

        return export(self, Path(path), format)


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
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"expected {what} of finite numbers, got NaN or an infinity")
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
