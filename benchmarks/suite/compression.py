"""What lz4 saves on the way from an actor to ingest: bytes, and CPU time of both ends with and without encryption.

The blocks are real unrolls of the recipes' environments with the untrained policy, sent over tcp on this machine. The CPU
time includes compression, both sockets and decompression, but no environment and no checks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.line import Line
from benchmarks.real_batch import Collector
from protocol.data.compression import compressed, decompressed
from protocol.security.keys import make_keys
from protocol.wire.codec import Buffer
from recipes.registry import find_recipe

WARM_UP = True
RECIPES = ("cartpole", "mujoco", "cogs_v_clips", "minatar", "minigrid_doorkey", "atari_pong")
FORMS = ("sent as they are", "lz4")
BYTES_A_SECOND = 2**27


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """Each recipe's block in both forms, over a line with and without keys."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oat-keys-")))
    make_keys(folder)
    lines = {"plain": Line(None, stack), "CURVE": Line(folder, stack)}
    made: dict[str, Arm] = {}
    for recipe in RECIPES[:1] if effort.quick else RECIPES:
        packed = block_of(recipe)
        number = 2 if effort.quick else max(2, int(effort.seconds * BYTES_A_SECOND / packed.nbytes))
        for name, line in lines.items():
            made[f"{recipe}, {name}, {FORMS[0]}"] = partial(carry, line, number, lambda packed=packed: packed, len)
            made[f"{recipe}, {name}, {FORMS[1]}"] = partial(
                carry,
                line,
                number,
                partial(compressed, packed),
                partial(decompressed, nbytes=packed.nbytes),
            )
    return made


def block_of(recipe: str) -> memoryview:
    """One packed block of a recipe."""
    settings = find_recipe(recipe).settings()
    with closing(Collector(settings)) as collector:
        return collector.packed()


def carry(line: Line, number: int, payload: Callable[[], memoryview], taken: Callable[[Buffer], object]) -> dict[str, float]:
    """Send blocks; returns the bytes of one of them on the wire."""
    line.carry(payload, number, taken)
    return {"bytes": payload().nbytes}


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Ratios of lz4 to blocks sent as they are."""
    found: dict[str, Figure] = {}
    for arm in (name for name in rounds.values if name.endswith(FORMS[0])):
        shorter = arm.replace(FORMS[0], FORMS[1])
        found[f"{arm.removesuffix(FORMS[0])}CPU, lz4 / as they are"] = Figure(rounds.ratio(shorter, arm, "cpu_s"), "x", "lower")
        if ", plain, " in arm:
            found[f"{arm.split(',')[0]}: bytes, as they are / lz4"] = Figure(rounds.ratio(arm, shorter, "bytes"), "x")
    return found
