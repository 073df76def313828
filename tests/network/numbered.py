"""An environment whose observations are numbered, and a loss that writes down what it was trained on.

So a test knows of every trajectory that came out of the learner's end which actor's environment it is from and which one it
was there: once, in order and without gaps, or not.
"""
# ruff: noqa: ARG002 -- the signatures are Gymnasium's

from __future__ import annotations

import itertools
import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, TypedDict

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from learner.loss import Choice, Loss, Term

NUMBER, RECORD = "NUMBERED_ENVIRONMENT", "NUMBERED_RECORD"
"""Which actor process an environment is in, and the file that the loss writes to."""
SCALE = 2.0**-16
"""Of step numbers, so that a network has inputs of about 1; a power of two loses no bit."""
_copies = itertools.count()


class Numbered(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Shows which copy it is and how many steps it has taken since its process started; an episode has 50 of them."""

    def __init__(self, width: int = 4, step_s: float = 0.001) -> None:
        self.observation_space = Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space = Discrete(2)
        self._number = 100 * int(os.environ.get(NUMBER, "0")) + next(_copies)
        self._steps, self._step_s = 0, step_s

    def _observation(self) -> Any:
        observation = np.zeros(self.observation_space.shape, np.float32)
        observation[:2] = self._number, self._steps * SCALE
        return observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self._step_s)
        self._steps += 1
        return self._observation(), 1.0, False, self._steps % 50 == 0, {}


class Nothing(TypedDict):
    """No tensors."""


class Recording(Loss):
    """Adds nothing to the objective."""

    name = "recording"

    def __init__(self, context: Any) -> None:
        pass

    def prepare(self, *, observations_BT1: Tensor) -> Nothing:
        first = observations_BT1[:, 0, :2].double().tolist()
        rows = sorted([round(number), round(steps / SCALE)] for number, steps in first)
        with Path(os.environ[RECORD]).open("a") as file:
            file.write(f"{json.dumps(rows)}\n")
        return {}

    def compute(self, *, logits_BTA: Tensor, mask_BT: Tensor) -> dict[str, Term]:
        return {"value": Term(logits_BTA.sum(-1) * 0.0, mask_BT, 1.0)}


def choose(_question: Any) -> Choice:
    return Choice(Recording)


def read_record(path: Path) -> dict[int, list[int]]:
    """By environment, the first step of each of its trajectories in the order in which they were trained on.

    Within a batch they are sorted, for a batch has no order.
    """
    trained: dict[int, list[int]] = defaultdict(list)
    for line in path.read_text().splitlines():
        for number, step in json.loads(line):
            trained[number].append(step)
    return dict(trained)


def check_record(path: Path, unroll: int) -> dict[int, int]:
    """Every environment's trajectories were trained on once, in order and without a gap; how many there were of each."""
    trained = read_record(path)
    for number, steps in trained.items():
        expected = list(range(0, unroll * len(steps), unroll))
        assert steps == expected, f"environment {number}: {differences(steps, expected)}"
    return {number: len(steps) for number, steps in trained.items()}


def differences(steps: list[int], expected: list[int]) -> str:
    """Where two lists part."""
    at = next(index for index, pair in enumerate(zip(steps, expected, strict=True)) if pair[0] != pair[1])
    return f"trajectory {at} begins with step {steps[at]}, expected {expected[at]}; around it {steps[max(0, at - 2) : at + 3]}"
