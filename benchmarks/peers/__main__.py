"""Compares oatmill with other systems (peers) in interleaved rounds: `python -m benchmarks.peers FOLDER [PEER...]`.

Run `setup.sh FOLDER` first.

With --task cartpole, all systems train CartPole-v1 with the settings of settings.json: two hidden layers of
64, unrolls of 64, batches of 32 unrolls, 4 epochs of 4 minibatches, 32 environments, and the same rewards
and losses. With --large they use large.json: batches of 512, 16 minibatches, 512 environments, and twice the
learning rate. Steps per second are measured from the first training step to the last. reverb and oatmill's
replay server are compared with unrolls of 64 steps, two writing processes and one sampling process.

With --task cogs, oatmill and Sample Factory train the team of easy_hearts_small with the settings of cogs.json,
which both have (the recipe's own differ): a constant learning rate, a token grid and a layer of 128, unrolls of 64,
batches of 64, 4 epochs of 4 minibatches of whole trajectories, 32 simulations. Both systems step
`actors/environments/adapters/cogs.py` on the same version of MettaGrid and encode with `agent/tokens/encoders.py`.
Steps are steps of agents. CPU seconds are those of the whole run, including its start.

With --task pong, oatmill, Sample Factory, CleanRL and RLlib train Pong with the settings of pong.json, which are those of
oatmill's recipe: four frames of 84x84, the same three convolutions and layer of 512, unrolls of 128, batches of 8, 3 epochs of
4 minibatches. oatmill runs twice, in float32 and in bfloat16. CleanRL's script is run from a checkout, which CLEANRL names.

There are some differences. Stable-Baselines3 and TorchRL have separate networks for policy and value.
TorchRL, RLlib and Sample Factory keep the learning rate constant. Sample Factory scales rewards in its own
way, and RLlib does not scale them. Each peer has the version of Gymnasium that its requirements allow; the
dynamics of CartPole-v1 are the same in all versions.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.processes import TIMEOUT_S, environment, run_oatmill
from benchmarks.record import version_of
from benchmarks.replay import measure
from learner.budget import MIN_BATCHES

HERE = Path(__file__).parent
STEPS = 100_000
SETTINGS, LARGE = HERE / "settings.json", HERE / "large.json"
TRAINERS = {
    "stable-baselines3": "run_sb3.py",
    "sample-factory": "run_sample_factory.py",
    "cleanrl": "run_cleanrl.py",
    "rllib": "run_rllib.py",
    "torchrl": "run_torchrl.py",
}
REPLAY = {"reverb": (), "reverb 84x84x4": ("--big",)}


@dataclass(frozen=True)
class Task:
    """A task that all systems train on.

    Attributes:
        settings: the settings of all systems.
        recipe: oatmill's recipe.
        own: oatmill's variants, with their changes to the recipe.
        peers: the other systems that have a runner for the task.
    """

    settings: Path
    recipe: str
    own: Mapping[str, tuple[str, ...]]
    peers: tuple[str, ...]


TASKS = {
    "cartpole": Task(
        SETTINGS,
        "cartpole",
        {"oatmill, one by one": ("env.vectorization=sync",), "oatmill, vectorised": ()},
        tuple(peer for peer in TRAINERS if peer != "cleanrl"),
    ),
    "cogs": Task(HERE / "cogs.json", "cogs_v_clips", {"oatmill": ()}, ("sample-factory",)),
    "pong": Task(
        HERE / "pong.json",
        "atari_pong",
        {f"oatmill, {precision}": (f"trainer.precision={precision}",) for precision in ("float32", "bfloat16")},
        ("sample-factory", "cleanrl", "rllib"),
    ),
}


def own_settings(path: Path) -> tuple[str, ...]:
    """Convert a settings file to settings of oatmill's recipe."""
    given = json.loads(path.read_text())
    return (
        f"actors.count={given['workers']}",
        f"actors.envs_per_actor={given['envs'] // given['workers']}",
        f"actors.unroll_length={given['unroll']}",
        f"trainer.batch_size={given['batch_trajectories']}",
        f"trainer.epochs={given['epochs']}",
        f"trainer.minibatches={given['minibatches']}",
        f"trainer.shuffle={given.get('shuffle', 'trajectories')}",
        "trainer.normalize_returns=false",
        f"trainer.optimizer.learning_rate={given['learning_rate']}",
        f"trainer.optimizer.schedule={given.get('schedule', 'linear')}",
        f"trainer.gamma={given['gamma']}",
        f"trainer.losses.ppo_critic.gae_lambda={given['gae_lambda']}",
        f"trainer.losses.ppo_actor.ent_coef={given['entropy']}",
        f"trainer.reward_scale={given['reward_scale']}",
    )


def run_peer(folder: Path, peer: str, *arguments: str, settings: Path = SETTINGS) -> dict[str, Any]:
    """Run a peer's runner once in its Python environment."""
    name = peer.split(maxsplit=1)[0]
    runner = TRAINERS.get(name, "run_reverb.py")
    command = [str(folder / name / "bin/python"), str(HERE / runner), *arguments]
    with tempfile.TemporaryFile("w+") as output:  # not a pipe, which a worker that outlives its parent would keep open
        try:
            subprocess.run(
                command,
                env=environment() | {"TF_CPP_MIN_LOG_LEVEL": "3", "PEER_SETTINGS": str(settings)},
                stdout=output,
                stderr=output,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {}
        output.seek(0)
        lines = output.read().splitlines()
    found = [line for line in lines if line.startswith('{"peer"')]
    if not found:
        sys.stderr.write(f"{peer} gave no result; its last lines:\n" + "\n".join(lines[-5:]) + "\n")
        return {}
    result: dict[str, Any] = json.loads(found[-1])
    return result


def run_own(recipe: str, changes: tuple[str, ...], steps: int, seed: int) -> dict[str, Any]:
    """Run oatmill once with the same settings, which are the recipe's."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="oatmill-bench-") as folder:
        run = Path(folder) / "run"
        summary = run_oatmill("train", recipe, f"trainer.total_timesteps={steps}", *changes, f"--seed={seed}", run_dir=run)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "steps_per_s": summary["env_steps_per_second"] or 0.0,
        "env_steps": summary["env_steps"],
        "return": summary["episode_return"]["mean"] or 0.0,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_s": time.perf_counter() - started,
    }


def own_replay(case: str, seconds: float) -> dict[str, Any]:
    """Measure oatmill's replay server in the same way as reverb."""
    return measure(case, "ipc", "memory", Namespace(seconds=seconds, queue_batches=2.0), None)


def other_environment(folder: Path, peer: str) -> str | None:
    """The difference between a peer's MettaGrid and ours; None if they are the same version."""
    found = next((folder / peer).glob("lib/python*/site-packages/mettagrid-*.dist-info"), None)
    theirs = found and found.name.removeprefix("mettagrid-").removesuffix(".dist-info")
    own = version_of("mettagrid")
    return None if own and theirs == own else f"{peer} has mettagrid {theirs or '(none)'}, oatmill {own or '(none)'}"


def contestants(options: argparse.Namespace) -> dict[str, Callable[[int], dict[str, Any]]]:
    """All installed systems by name. Each uses the number of the round as its seed."""
    task = TASKS[options.task]
    able = (*task.peers, "reverb") if options.task == "cartpole" else task.peers
    there = [peer for peer in able if (options.folder / peer / "bin/python").exists()]
    chosen = [peer for peer in there if not options.peers or peer in options.peers]
    settings = settings_of(options)
    found: dict[str, Callable[[int], dict[str, Any]]] = {}
    for name, changes in task.own.items() if set(chosen) & set(TRAINERS) else ():
        everything = (*own_settings(settings), *changes)
        found[name] = lambda seed, changes=everything: run_own(task.recipe, changes, options.steps, seed)  # type: ignore[misc]
    for peer in chosen:
        if peer in TRAINERS:
            found[peer] = lambda seed, peer=peer: run_peer(  # type: ignore[misc]
                options.folder, peer, "--steps", str(options.steps), "--seed", str(seed), settings=settings
            )
    return found | (replay_contestants(options) if "reverb" in chosen else {})


def replay_contestants(options: argparse.Namespace) -> dict[str, Callable[[int], dict[str, Any]]]:
    """Our replay server and reverb, by name."""
    found: dict[str, Callable[[int], dict[str, Any]]] = {
        "oatmill replay": lambda _seed: own_replay("cartpole", options.seconds),
        "oatmill replay 84x84x4": lambda _seed: own_replay("atari", options.seconds),
    }
    for name, flags in REPLAY.items():
        found[name] = lambda _seed, name=name, flags=flags: run_peer(  # type: ignore[misc]
            options.folder, name, "--seconds", str(options.seconds), *flags
        )
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder that setup.sh was given")
    parser.add_argument("peers", nargs="*", help="names of peers; default: all that are installed")
    parser.add_argument("--task", choices=tuple(TASKS), default="cartpole", help="the task (cartpole)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="env steps of a run (100,000, or the fewest that give full batches)")
    parser.add_argument("--large", action="store_true", help="use the settings of large.json")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a replay run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds to this file")
    options = parser.parse_args(arguments)
    if options.large and options.task != "cartpole":
        parser.exit(2, "benchmarks: error: --large has settings for CartPole only; leave out --large or --task\n")
    least = least_steps(settings_of(options))
    options.steps = max(STEPS, least) if options.steps is None else options.steps
    if options.steps < least:
        parser.exit(2, f"benchmarks: error: --steps must be at least {least}: with fewer, oatmill's batches would be smaller\n")
    return options


def settings_of(options: argparse.Namespace) -> Path:
    """The file with the settings of all systems."""
    return LARGE if options.large else TASKS[options.task].settings


def least_steps(settings: Path) -> int:
    """The smallest budget with which oatmill uses full batches."""
    given = json.loads(settings.read_text())
    return MIN_BATCHES * int(given["batch_trajectories"]) * int(given["unroll"])


def what_is_missing(options: argparse.Namespace, everybody: Collection[str]) -> str | None:
    """Why the systems cannot be compared, with the way out; None if they can."""
    if not everybody:
        return f"{options.folder} has no environment of such a peer; run benchmarks/peers/setup.sh first"
    if "cleanrl" in everybody and "CLEANRL" not in os.environ:
        return "CleanRL is run from a checkout: set CLEANRL to its folder, or name other peers"
    if options.task == "cogs" and (wrong := other_environment(options.folder, "sample-factory")):
        return f"{wrong}; run benchmarks/peers/setup.sh with METTAGRID=mettagrid==VERSION"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run all systems in rounds and print medians, or JSON. The exit code is 2 if they cannot be compared."""
    options = parse(arguments)
    everybody = contestants(options)
    if wrong := what_is_missing(options, everybody):
        sys.stderr.write(f"benchmarks: error: {wrong}\n")
        return 2
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in everybody}
    for number in range(options.rounds):
        for name, run in everybody.items():
            if found := run(number + 1):
                results[name].append(found)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    for name, rounds in results.items():
        numbers = [
            key
            for key in ("steps_per_s", "return", "unrolls_per_s", "mb_per_s", "cpu_s_per_gb", "cpu_s", "wall_s")
            if key in (rounds or [{}])[0]
        ]
        print(f"{name:<42}" + "".join(f"{key} {median(one[key] for one in rounds):>12,.1f}   " for key in numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
