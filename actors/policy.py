"""The acting policy: batched inference on one CPU thread, with one recurrent state per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from agent.model import AgentModel, acting_layout
from agent.spec import AgentSpec
from agent.unpack_weights import load_packed
from protocol.data.observations import Observations, each
from protocol.data.trajectory import Array
from protocol.data.weights import Layout, Weights

SMALLEST_WAIT = np.float32(2.0**-24)  # with a waiting time of 0 a choice would win with any logits


class Acted(NamedTuple):
    """The policy's outputs for N rows. The arrays are valid until the next call."""

    actions: Array  # [N] or [N, width]: int64, or float32 where the action has numbers, as they were drawn
    executed: Array  # the same with numbers squashed into -1..1: what the environment is given
    logits: Array  # [N, P], float32: the policies' rows
    value: Array  # [N], float32


class ActingPolicy:
    """The behaviour policy of one actor.

    Args:
        spec: the network's specification.
        rows: N, the number of rows.
        seed: the seed of the sampled actions.

    Attributes:
        version: the version of the weights in use; -1 for the random initial weights.
        layout: the layout of weights that `load` accepts.
    """

    def __init__(self, spec: AgentSpec, rows: int, seed: int) -> None:
        self.spec = spec
        self.version = -1
        self._model = AgentModel(spec).eval()
        self.layout: Layout = acting_layout(self._model)
        self._core_state = self._model.initial_state(rows)
        self._rng = np.random.default_rng(seed)
        action = spec.spaces.action
        self._waits = np.empty((rows, action.num_logits), np.float32)
        self._numbers = np.empty((rows, action.dimensions), np.float32)
        # Computed once: a step of a few rows takes so little time that properties and a new context manager show.
        self._sizes, self._factored, self._has_numbers = action.sizes, action.factored, bool(action.dimensions)
        self._is_recurrent = bool(spec.core_state_size)
        self._without_gradients = torch.inference_mode()

    @property
    def core_state(self) -> Array:
        """The recurrent state before the next observation, `[N, S]`, a copy."""
        state: Array = self._core_state.numpy().copy()
        return state

    def load(self, weights: Weights) -> None:
        """Load newer weights; recurrent states do not change.

        Raises:
            WireError: if the weights belong to another network.
        """
        load_packed(self._model, weights)
        self.version = weights.version

    def act(self, observations: Observations) -> Acted:
        """Sample an action per row and update the recurrent states.

        Args:
            observations: `[N, ...]` in the environment's dtype.
        """
        with self._without_gradients:
            output = self._model.step(each(readable, observations), self._core_state)
        self._core_state = output.core_state
        logits: Array = output.logits.numpy()
        if self._has_numbers:
            return Acted(*self._draw_with_numbers(logits), logits, output.value.numpy())
        choices = draw(logits, self._sizes, self._rng, self._waits)
        actions = choices if self._factored else choices[:, 0]
        return Acted(actions, actions, logits, output.value.numpy())

    def _draw_with_numbers(self, rows: Array) -> tuple[Array, Array]:
        """Rows of choices and numbers, as drawn and as the environment is given them."""
        action = self.spec.spaces.action
        means, log_stds = np.split(rows[:, action.num_logits :], 2, axis=-1)
        noise = self._rng.standard_normal(out=self._numbers, dtype=np.float32)
        numbers = means + np.exp(log_stds) * noise
        squashed = np.tanh(numbers) if self.spec.settings.squash == "tanh" else np.clip(numbers, -1, 1)
        if not action.sizes:
            return numbers, squashed
        choices = draw(rows[:, : action.num_logits], action.sizes, self._rng, self._waits).astype(np.float32)
        return np.concatenate([choices, numbers], -1), np.concatenate([choices, squashed], -1)

    def start_anew(self, ended: Array) -> None:
        """Clear the recurrent states of rows whose episode ended, `[N]` bool."""
        if self._is_recurrent:
            self._core_state.numpy()[ended] = 0.0


def readable(values: Array) -> torch.Tensor:
    """A tensor of an environment's numbers. torch wants memory that it may write to, and they may be read-only."""
    return torch.from_numpy(values if values.flags.carray else np.require(values, requirements=("C", "W")))


def draw(logits: Array, sizes: Sequence[int], rng: np.random.Generator, waits: Array) -> Array:
    """Sample a choice of each factor with the Gumbel-max trick.

    It needs no normalised probabilities. For a few dozen rows NumPy takes a quarter of torch's time.

    Args:
        logits: float32 `[N, A]`, the factors' choices one after another.
        sizes: the number of choices of each factor.
        rng: the random number generator.
        waits: scratch memory, float32 `[N, A]`, for exponential waiting times.

    Returns:
        int64 `[N, factors]`.
    """
    rng.standard_exponential(out=waits, dtype=np.float32)
    np.maximum(waits, SMALLEST_WAIT, out=waits)
    np.log(waits, out=waits)
    np.subtract(logits, waits, out=waits)
    if len(sizes) == 1:
        first: Array = waits.argmax(-1, keepdims=True)
        return first
    ends = np.cumsum(sizes)
    return np.stack([waits[:, end - size : end].argmax(-1) for size, end in zip(sizes, ends, strict=True)], -1)
