"""EnvPool: whole runs against other vectorised classes, and acting with its synchronous and asynchronous form.

Needs `oatmill[envpool,atari]`. Without the name `envpool`, `python -m benchmarks` leaves it out.

Whole runs are of the recipes `cartpole` and `atari_pong`; steps a second are those after a warm-up, see
`benchmarks/runs.py`. The acting loop is one process with one torch thread and as many copies as an actor
has: the policy chooses actions, EnvPool steps. It has three forms. In `one call` the policy waits until all
copies have stepped, as in an actor. In `asynchronous` the policy gets whichever half of the copies is ready
first (`batch_size`, `async_reset`, `recv`, `send`). In `two halves` it acts for one half while the other
steps. Each runs alone, and beside a process that keeps one more core busy, as a learner does. Where all cores
are busy, as in a run with as many actors as cores, steps per CPU second (the pool's thread included) decide.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from actors.environments.make import describe
from actors.policy import ActingPolicy
from actors.settings import EnvPoolEnv
from agent.spec import AgentSpec
from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.processes import run_oatmill
from benchmarks.runs import least_steps, steady_rate
from recipes.registry import find_recipe

WARM_UP = False
POOLS = {"CartPole": ("cartpole", "CartPole-v1"), "Pong": ("atari_pong", "Pong-v5")}
RUNS: Mapping[str, tuple[str, int, Sequence[str]]] = {
    "CartPole, EnvPool": ("cartpole", 45_000, ("env.kind=envpool", "env.id=CartPole-v1")),
    "CartPole, Gymnasium's vector class": ("cartpole", 45_000, ()),
    "CartPole, Gymnasium one by one": ("cartpole", 45_000, ("env.vectorization=sync",)),
    "Pong, EnvPool": ("atari_pong", 2_500, ("env.kind=envpool", "env.id=Pong-v5")),
    "Pong, ALE's vector class": ("atari_pong", 2_500, ()),
}
"""The recipe, the env steps of a run for each second of effort, and what is changed."""
FORMS = ("one call", "asynchronous", "two halves")
BUSY = [sys.executable, "-c", "while True: pass"]


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:
    """The loops of both games in every form, alone and beside a busy process, and the whole runs."""
    torch.set_num_threads(1)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="oatmill-bench-")))
    made: dict[str, Arm] = {}
    for game in list(POOLS)[: 1 if effort.quick else None]:
        for beside in ("", ", beside a busy process"):
            made |= {f"{game} loop, {form}{beside}": loop_arm(game, form, effort, busy=bool(beside)) for form in FORMS}
    return made | {name: run_arm(name, effort, folder) for name in list(RUNS)[: 1 if effort.quick else None]}


def run_arm(name: str, effort: Effort, folder: Path) -> Arm:
    """One run of a case in its own folder; every run has a different seed."""
    recipe, a_second, changes = RUNS[name]
    steps = max(least_steps(find_recipe(recipe).settings()), int(a_second * effort.seconds))
    seeds = iter(range(1, 1000))

    def arm() -> dict[str, float]:
        seed = next(seeds)
        run = folder / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
        run_oatmill("train", recipe, f"trainer.total_timesteps={steps}", *changes, f"--seed={seed}", run_dir=run)
        return {"steps_per_s": steady_rate(run)}

    return arm


def loop_arm(game: str, form: str, effort: Effort, *, busy: bool) -> Arm:
    """Act for a while in one of the three forms."""
    recipe, env_id = POOLS[game]
    settings = find_recipe(recipe).settings()
    spec = AgentSpec(describe(EnvPoolEnv(id=env_id))[0], settings.agent)
    loop: Callable[[str, ActingPolicy, int], Callable[[], int]] = {
        "one call": one_call, "asynchronous": asynchronous, "two halves": two_halves,
    }[form]  # fmt: skip
    copies = settings.actors.envs_per_actor
    rows = copies if form == "one call" else copies // 2
    turn = loop(env_id, ActingPolicy(spec, rows, 1), copies)

    def arm() -> dict[str, float]:
        with busy_process(wanted=busy):
            turn()
            steps, began, used = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - began < effort.seconds / 2:
                steps += turn()
            took, used = time.perf_counter() - began, time.process_time() - used
            return {"steps_per_s": steps / took, "steps_per_cpu_s": steps / used}

    return arm


@contextmanager
def busy_process(*, wanted: bool) -> Any:
    """Keep one core busy meanwhile."""
    process = subprocess.Popen(BUSY) if wanted else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def one_call(env_id: str, policy: ActingPolicy, copies: int) -> Callable[[], int]:
    """All copies step together."""
    pool = make_pool(env_id, copies, copies)
    seen = pool.reset()[0]

    def turn() -> int:
        nonlocal seen
        seen = pool.step(policy.act(seen).actions.astype(np.int32))[0]
        return copies

    return turn


def asynchronous(env_id: str, policy: ActingPolicy, copies: int) -> Callable[[], int]:
    """Whichever half of the copies is ready first."""
    pool = make_pool(env_id, copies, copies // 2)
    pool.async_reset()

    def turn() -> int:
        seen, *_, info = pool.recv()
        pool.send(policy.act(seen).actions.astype(np.int32), info["env_id"])
        return copies // 2

    return turn


def two_halves(env_id: str, policy: ActingPolicy, copies: int) -> Callable[[], int]:
    """One half steps while the policy acts for the other."""
    pools = [make_pool(env_id, copies // 2, copies // 2) for _ in range(2)]
    for pool in pools:
        pool.async_reset()

    def turn() -> int:
        for pool in pools:
            seen, *_, info = pool.recv()
            pool.send(policy.act(seen).actions.astype(np.int32), info["env_id"])
        return copies

    return turn


def make_pool(env_id: str, copies: int, batch_size: int) -> Any:
    """A pool with one thread, as an actor has it."""
    import envpool  # noqa: PLC0415  (an extra)

    return envpool.make_gymnasium(env_id, num_envs=copies, batch_size=batch_size, num_threads=1, seed=1)


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Steps a second, and ratios: of a loop to `one call`, and of EnvPool's whole run to the others."""
    found: dict[str, Figure] = {}
    for name, measured in rounds.values.items():
        found[name] = Figure(rounds.median(name, "steps_per_s"), "steps/s")
        if "steps_per_cpu_s" in measured:
            found[f"{name}, per CPU second"] = Figure(rounds.median(name, "steps_per_cpu_s"), "steps/CPU s")
    for name in rounds.values:
        for form in FORMS[1:]:
            if form in name:
                whole = name.replace(form, FORMS[0])
                found[f"{name}: of one call"] = Figure(rounds.ratio(name, whole, "steps_per_s"), "times")
                found[f"{name}: of one call, per CPU second"] = Figure(rounds.ratio(name, whole, "steps_per_cpu_s"), "times")
        pool = f"{name.partition(',')[0]}, EnvPool"
        if name in RUNS and name != pool:
            found[f"{pool}: of {name}"] = Figure(rounds.ratio(pool, name, "steps_per_s"), "times")
    return found
