"""Measures how fast trajectories go from actors through the replay server to the learner.

Two processes write blocks of synthetic trajectories and one process takes batches, as actors and a
learner do, through a real `python -m replay`. No environment is stepped and nothing is trained, so the
numbers are upper limits for a run on this machine.

    python -m benchmarks.replay   # CartPole-size and 84x84x4 trajectories, over ipc and tcp
    python -m benchmarks.replay --case cartpole --transport ipc --seconds 10 --json
    python -m benchmarks.replay --case 46kb --transport ipc --acknowledge memory durable   # cost of the log
    python -m benchmarks.replay --transport tcp --curve   # cost of encryption, as a ratio to the first

Unrolls are trajectories of 64 steps. MB/s counts the observations and logits of the batches that
arrive (1 MB = 10^6 bytes). `cpu_s_per_gb` is the CPU time of all processes together per GB. On a machine
with other work it says more than the elapsed time. The acknowledgement time of every tenth block is
measured, from `offer` until the writer knows that the server has the block. `start_s` is the time from
the start of the server to the file that says that it is ready. `rss_mb` is the memory of its two
processes at that moment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from oatmill.settings.flat import joining_config
from protocol.channels import BatchClient, ControlClient, TrajectorySender, WeightsPublisher
from protocol.data.run_schema import RunSchema
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.data.trajectory import Array, TrajectoryBlock
from protocol.data.weights import Weights
from protocol.security.keys import client_keys, make_keys
from replay.settings import ReplaySettings

STEPS = 64
WRITERS = 2
WARM_UP_S = 1.0
ACK_EVERY = 10
PAGE = 4096


@dataclass(frozen=True)
class Case:
    """One size of trajectory."""

    spaces: Spaces
    rows: int  # of a block
    batch_size: int


CASES = {
    "cartpole": Case(Spaces(ObservationSpace("vector", (4,), "float32"), ActionSpace((2,))), 16, 256),
    "46kb": Case(Spaces(ObservationSpace("vector", (170,), "float32"), ActionSpace((2,))), 1, 64),
    "atari": Case(Spaces(ObservationSpace("image", (4, 84, 84), "uint8"), ActionSpace((6,))), 2, 16),
}


def synthetic_block(case: Case, rng: np.random.Generator) -> TrajectoryBlock:
    """A valid block of random numbers. An episode ends in every fourth row."""
    n, actions = case.rows, case.spaces.action.num_logits
    observation = case.spaces.observation
    shape = (n, STEPS + 1, *observation.shape)
    random = rng.integers(0, 255, shape, np.uint8) if observation.dtype == "uint8" else rng.normal(size=shape)
    ended = np.zeros((n, STEPS), np.bool_)
    ended[::4, STEPS // 2] = True
    ends = int(ended.sum())
    return TrajectoryBlock(
        observations=random.astype(observation.dtype),
        actions=rng.integers(0, actions, (n, STEPS)).astype(np.int32),
        rewards=np.ones((n, STEPS), np.float32),
        terminated=ended,
        truncated=np.zeros((n, STEPS), np.bool_),
        valid=np.ones((n, STEPS), np.bool_),
        behaviour_logits=rng.normal(size=(n, STEPS, actions)).astype(np.float32),
        behaviour_value=rng.normal(size=(n, STEPS)).astype(np.float32),
        core_state=np.zeros((n, 0), np.float32),
        final_observations=np.zeros((0, *observation.shape), observation.dtype),
        final_trajectory=np.zeros(0, np.int32),
        final_step=np.zeros(0, np.int32),
        episode_return=np.full(ends, 100.0, np.float32),
        episode_length=np.full(ends, 100, np.int32),
        episode_statistics=np.zeros((ends, 0), np.float32),
        policy_version=0,
    )


def config_of(case: Case, queue_batches: float, acknowledge: Any = "memory") -> dict[str, Any]:
    """The part of config.yaml that the replay server reads."""
    return {
        "env": {"id": "synthetic"},
        "agent": {},
        "actors": {"count": WRITERS, "unroll_length": STEPS},
        "replay": ReplaySettings(queue_batches=queue_batches, acknowledge=acknowledge).model_dump(mode="json"),
        "trainer": {"batch_size": case.batch_size, "seed": 0},
        "metrics": {"host": "127.0.0.1", "port": 0},
    }


@contextmanager
def server(config: dict[str, Any], transport: str, keys: Path | None = None) -> Iterator[tuple[str, dict[str, float]]]:
    """A running replay server: its control address, and measurements of its start."""
    with tempfile.TemporaryDirectory(prefix="oat-") as folder:
        run = Path(folder)
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        listen = f"ipc://{folder}" if transport == "ipc" else "tcp://127.0.0.1:0"
        ready = run / "control"
        command = [sys.executable, "-m", "replay", "--config", str(run / "config.yaml"), "--run-dir", folder, "--validated"]
        command += [] if keys is None else ["--keys", str(keys)]
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--listen", listen, "--port-file", f"{ready}.txt", "--log-level", "warning"])
        try:
            while not ready.with_suffix(".txt").exists():
                if process.poll() is not None:
                    raise SystemExit(f"the replay server ended with {process.returncode}")
                time.sleep(0.002)
            start_s = time.perf_counter() - started
            both = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
            rss_mb = sum(one.memory_info().rss for one in both) / 1e6
            yield ready.with_suffix(".txt").read_text().strip(), {"start_s": start_s, "rss_mb": rss_mb}
        finally:
            process.terminate()
            process.wait()


def write(address: str, name: str, queue_batches: float, keys: Path | None) -> None:
    """Run a writer: send the same block again and again until the stop request, then print the acknowledgement times."""
    case = CASES[name]
    run_schema = RunSchema(case.spaces, 0, ())
    config = joining_config(config_of(case, queue_batches))
    description = {"config": config, "spaces": case.spaces.to_dict(), "episode_statistics": [], "rows": case.rows}
    control = ControlClient(address, role="actor", description=description, keys=client_keys(keys, "actor"))
    welcome = control.join(10)
    sender = TrajectorySender(
        welcome.endpoints["data"], welcome=welcome, schema=run_schema.trajectory, rows=case.rows, when_full="block"
    )
    block = synthetic_block(case, np.random.default_rng(welcome.actor_id))
    acks: list[float] = []
    while not control.state.stop:
        control.heartbeat({})
        if not sender.wait_ready(0.5):
            continue
        started = time.perf_counter()
        sender.offer(block)
        if sender.produced // case.rows % ACK_EVERY == 0 and sender.drain(5):
            acks.append(time.perf_counter() - started)
    sender.close()
    control.close()
    print(json.dumps(acks))


def measure(name: str, transport: str, acknowledge: str, options: argparse.Namespace, keys: Path | None) -> dict[str, Any]:
    """Run one case."""
    case, seconds, queue_batches = CASES[name], options.seconds, options.queue_batches
    config = config_of(case, queue_batches, acknowledge)
    with server(config, transport, keys) as (address, start):
        description = {"config": joining_config(config), "rank": 0, "world": 1}
        control = ControlClient(address, role="learner", description=description, keys=client_keys(keys, "learner"))
        welcome = control.join(10)
        publisher = WeightsPublisher(welcome.endpoints["weights"], welcome=welcome)
        publisher.push(Weights.pack(0, {"w": np.zeros(1, np.float32)}, "float32"))
        publisher.flush(5)
        arguments = [
            sys.executable,
            "-m",
            "benchmarks.replay",
            "--write",
            address,
            "--case",
            name,
            "--queue-batches",
            str(queue_batches),
        ]
        arguments += [] if keys is None else ["--keys", str(keys)]
        writers = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(WRITERS)]
        batches = BatchClient(welcome.endpoints["batches"], welcome=welcome, rank=0, world=1, batch_size_total=case.batch_size)
        rate = sample(batches, case, seconds)
        batches.close()
        operator = ControlClient(address, role="operator", description={}, keys=client_keys(keys, "operator"))
        operator.request("stop", {})
        acks = [ack for writer in writers for ack in json.loads(writer.communicate()[0])]
        ledger = operator.request("status", {})["ledger"]
        for channel in (operator, publisher, control):
            channel.close()
    assert ledger["lost"] == 0, ledger
    p50, p99 = np.quantile(acks, (0.5, 0.99)) * 1e3
    return {
        "case": name,
        "transport": transport,
        "acknowledge": acknowledge,
        **rate,
        "ack_p50_ms": p50,
        "ack_p99_ms": p99,
        **start,
    }


def sample(batches: BatchClient, case: Case, seconds: float) -> dict[str, float]:
    """Take batches for some time; rates are measured after the warm-up."""
    nbytes = rows = step = 0
    started, cpu = float("inf"), 0.0
    warm = time.perf_counter() + WARM_UP_S
    end = warm + seconds
    while (now := time.perf_counter()) < end:
        if now >= warm and started == float("inf"):
            started, nbytes, rows, cpu = now, 0, 0, family_cpu()
        batches.request(step)
        delivery = batches.poll(10)
        assert delivery is not None, "no batch within 10 s"
        nbytes += delivery.batch.observations.nbytes + delivery.batch.behaviour_logits.nbytes
        look_at(delivery.batch.observations)
        rows += delivery.batch.size
        batches.consumed(delivery.batch.batch_id, 0)
        step += 1
    elapsed = time.perf_counter() - started
    return {
        "unrolls_per_s": rows / elapsed,
        "mb_per_s": nbytes / elapsed / 1e6,
        "batches_per_s": rows / elapsed / case.batch_size,
        "cpu_s_per_gb": (family_cpu() - cpu) / nbytes * 1e9,
    }


def family_cpu() -> float:
    """The CPU seconds so far of this process, the server's processes and the writers."""
    own = psutil.Process()
    times = [one.cpu_times() for one in (own, *own.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def look_at(observations: Array) -> None:
    """Read one byte of every page. Over ipc, batches lie in mapped memory; reading its pages has a cost, too."""
    observations.reshape(-1).view(np.uint8)[::PAGE].max()


def main() -> None:
    """Measure and print."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=sorted(CASES))
    parser.add_argument("--transport", choices=("ipc", "tcp"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--queue-batches", type=float, default=2.0, help="replay.queue_batches")
    parser.add_argument(
        "--acknowledge",
        nargs="+",
        choices=("memory", "durable"),
        default=["memory"],
        help="one or both values",
    )
    parser.add_argument("--curve", action="store_true", help="with keys, so that everything is encrypted")
    parser.add_argument("--keys", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.write, options.case, options.queue_batches, options.keys)
        return
    cases = [options.case] if options.case else list(CASES)
    transports = [options.transport] if options.transport else ["ipc", "tcp"]
    with tempfile.TemporaryDirectory(prefix="oat-keys-") as folder:
        keys = Path(folder) / "keys" if options.curve else None
        if keys is not None:
            make_keys(keys)
        results = [measure(c, t, a, options, keys) for c in cases for t in transports for a in options.acknowledge]
    if options.json:
        print(json.dumps(results))
        return
    columns = ["case", "transport", "acknowledge", "unrolls_per_s", "mb_per_s", "ack_p50_ms", "ack_p99_ms", "start_s", "rss_mb"]
    print("".join(f"{column:>15}" for column in columns))
    for result in results:
        cells = (result[column] if isinstance(result[column], str) else f"{result[column]:,.2f}" for column in columns)
        print("".join(f"{cell:>15}" for cell in cells))


if __name__ == "__main__":
    main()
