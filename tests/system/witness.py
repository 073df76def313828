"""An independent record of the data that a run trains on: an environment that numbers its steps, and a loss that writes the
numbers to a file.

An observation is the environment's name (random, 24 bits) and the number of the step (24 bits), with one number per bit. For
each batch, the loss writes the name and the step number at which every trajectory starts. This does not use the run's ledger.
"""
# ruff: noqa: ARG002 -- the signatures are Gymnasium's

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from learner.loss import Choice, Context, Loss, Question, Statistic, Terms

FOLDER = "OATMILL_TEST_WITNESS"
"""The environment variable with the folder for the loss's files: one file per learner process, one line per batch."""
BITS = 24
UNSAID = 3
"""The number of last batches of a learner process that replay may not know to be trained on."""
EPISODE = 100

Row = tuple[int, int]


def bits(number: int) -> list[int]:
    """The bits of a number, lowest first."""
    return [number >> place & 1 for place in range(BITS)]


class Numbered(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """An environment in which every step has a unique number. Episodes end after `EPISODE` steps."""

    def __init__(self) -> None:
        self.observation_space = Box(0.0, 1.0, (2 * BITS,), np.float32)
        self.action_space = Discrete(2)
        self.name, self.number = secrets.randbits(BITS), 0

    def _seen(self) -> Any:
        return np.array(bits(self.name) + bits(self.number), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.number += 1
        return self._seen(), float(action), False, self.number % EPISODE == 0, {}


class Seen(TypedDict):
    """How many trajectories were written down, for each step."""

    witnessed_BT: Tensor


class Witness(Loss):
    """A loss that records the start of each trajectory of a batch. It trains nothing."""

    name = "witness"

    def __init__(self, context: Context) -> None:
        self.path = Path(os.environ[FOLDER]) / f"{time.clock_gettime_ns(time.CLOCK_BOOTTIME):020}-{os.getpid()}.jsonl"

    def prepare(self, *, observations_BT1: Tensor, mask_BT: Tensor) -> Seen:
        """Write a line for the batch before it is trained on."""
        first_B = observations_BT1[:, 0].flatten(1) > 0.5
        weights = 2 ** torch.arange(BITS)
        rows = [(int((row[:BITS] * weights).sum()), int((row[BITS:] * weights).sum())) for row in first_B]
        with self.path.open("a") as file:
            file.write(f"{json.dumps(rows)}\n")
        return {"witnessed_BT": torch.ones_like(mask_BT, dtype=torch.float32)}

    def compute(self, *, witnessed_BT: Tensor, mask_BT: Tensor) -> Terms:
        """Only so that the loss is part of the plan."""
        return {"rows": Statistic(witnessed_BT, mask_BT)}


def choose(_question: Question) -> Choice | None:
    """Enable the loss always."""
    return Choice(Witness)


def lives(folder: Path) -> list[list[list[Row]]]:
    """The batches of rows that each learner process trained on; processes in the order of their start."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text().split("\n")[:-1]  # the last line may be incomplete
        found.append([[(row[0], row[1]) for row in json.loads(line)] for line in lines])
    return found


def witnessed(learners: Iterable[list[list[Row]]]) -> Mapping[str, int]:
    """Count trajectories: trained on, trained on twice, and trained on out of order.

    The next learner may train again on the last batches of a learner that died, because their training was lost.
    """
    newest: dict[int, int] = {}
    seen: set[Row] = set()
    excused: set[Row] = set()
    counts = {"trained": 0, "twice": 0, "out_of_order": 0, "again_after_a_death": 0}
    for batches in learners:
        here: dict[int, int] = {}
        own: set[Row] = set()
        for row in (row for batch in batches for row in sorted(batch)):  # the order within a batch does not matter
            name, number = row
            counts["trained"] += 1
            if row in own or (row in seen and row not in excused):
                counts["twice"] += 1
            elif number <= here.get(name, -1) or (row not in excused and number <= newest.get(name, -1)):
                counts["out_of_order"] += 1
            elif row in excused:
                counts["again_after_a_death"] += 1
            own.add(row)
            here[name] = max(number, here.get(name, -1))
        seen |= own
        newest |= {name: max(number, newest.get(name, -1)) for name, number in here.items()}
        unsaid = {row for batch in batches[-UNSAID:] for row in batch}
        excused = unsaid if len(batches) >= UNSAID else unsaid | (excused - own)  # after a short life, earlier batches wait
    return counts
