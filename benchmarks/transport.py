"""The cost of sending a block of trajectories, step by step, and of sending weights.

The first table has no sockets. It shows the time that Python and NumPy take for one block of n
trajectories: at the actor (pack, header), at ingest (header, views, checks, one copy into a batch) and at
the learner (views). The second table uses a real hub and one receiver over ipc. It shows how long the
learner waits in `push`, and how long it takes until the receiver has verified the weights. The third table
is for one message over tcp, with and without keys.

    python -m benchmarks.transport [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.line import Line
from benchmarks.replay import CASES, STEPS, Case, config_of, server, synthetic_block
from oatmill.settings.flat import joining_config
from protocol.channels import ControlClient, WeightsPublisher, WeightsReceiver
from protocol.data.run_schema import RunSchema
from protocol.data.weights import Weights, layout_of
from protocol.security.keys import make_keys
from protocol.wire import messages
from protocol.wire.codec import decode, encode
from replay.ingest.validation import Validator
from replay.store.assembly import Assembler
from replay.store.queue import Slice

MEASURE_S = 0.3
VERSIONS = 30
ROUNDS = 20


def microseconds(action: Callable[[], Any]) -> float:
    """The median time of one call."""
    times = []
    end = time.perf_counter() + MEASURE_S
    while (started := time.perf_counter()) < end:
        action()
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e6


def block_costs(name: str, case: Case) -> list[dict[str, Any]]:
    """The time of each step for one block of this size."""
    schema = RunSchema(case.spaces, 0, ())
    block = synthetic_block(case, np.random.default_rng(0))
    size = block.size
    payload = schema.trajectory.pack(block)
    header = messages.Data(1, 2, schema.identity, 0, size.trajectories, STEPS, 0, size.episodes, 0, time.time(), 1, 0, {})
    encoded = encode(header)[0]
    views = schema.trajectory.views(payload, size)
    validator = Validator(case.spaces.action, 1e6)
    assembler = Assembler(schema, STEPS)
    piece = Slice(views, 0, size.trajectories, 0, 0.0)
    part = assembler.assemble(0, [piece])

    def assemble() -> None:
        assembler.recycle(assembler.assemble(0, [piece]))

    steps: dict[str, Callable[[], Any]] = {
        "actor: pack": lambda: schema.trajectory.pack(block, payload),
        "actor: header": lambda: encode(header),
        "ingest: header": lambda: decode(encoded, messages.DATA_TO_INGEST),
        "ingest: views": lambda: schema.trajectory.views(payload, size),
        "ingest: checks": lambda: validator.check(views),
        "ingest: into a batch": assemble,
        "learner: views": lambda: schema.batch.views(part.payload, part.size),
    }
    megabytes = payload.nbytes / 1e6
    return [{"case": name, "step": step, "us": microseconds(action), "block_mb": megabytes} for step, action in steps.items()]


def weights_costs(parameters: int) -> dict[str, Any]:
    """Publish some versions, bfloat16, to one receiver."""
    config = config_of(CASES["cartpole"], 1.0)
    arrays = {"w": np.random.default_rng(0).normal(size=parameters).astype(np.float32)}
    pushed, applied = [], []
    with server(config, "ipc") as (address, _):
        description = {"config": joining_config(config), "rank": 0, "world": 1}
        control = ControlClient(address, role="learner", description=description)
        welcome = control.join(10)
        endpoint = welcome.endpoints["weights"]
        publisher = WeightsPublisher(endpoint, welcome=welcome)
        receiver = WeightsReceiver(endpoint, layout=layout_of(arrays), keys=welcome.keys)
        for version in range(VERSIONS):
            weights = Weights.pack(version, arrays, "bfloat16")
            started = time.perf_counter()
            publisher.push(weights)
            pushed.append(time.perf_counter() - started)
            if version == 0:
                publisher.flush(10)
            assert receiver.poll(version, timeout_s=10) is not None
            applied.append(time.perf_counter() - started)
        for channel in (publisher, receiver, control):
            channel.close()
    return {
        "parameters": parameters,
        "megabytes": parameters * 2 / 1e6,
        "push_ms": float(np.median(pushed[1:])) * 1e3,
        "push_max_ms": max(pushed[1:]) * 1e3,
        "applied_ms": float(np.median(applied[1:])) * 1e3,
    }


def carry(keys: Path | None, nbytes: int) -> float:
    """CPU seconds for one message of this size over tcp, of both ends and their I/O threads; the best of several rounds.

    It measures CPU time, because on a shared machine the elapsed time depends on other work.
    """
    payload, number = bytes(nbytes), max(16, 4_000_000 // nbytes)
    best = float("inf")
    with ExitStack() as stack:
        line = Line(keys, stack)
        for _ in range(ROUNDS):
            started = time.process_time()
            line.carry(lambda: payload, number, len)
            best = min(best, (time.process_time() - started) / number)
    return best


def curve_costs() -> list[dict[str, Any]]:
    """The cost of encryption per message."""
    with tempfile.TemporaryDirectory(prefix="oat-keys-") as folder:
        make_keys(Path(folder))
        found = [(nbytes, carry(None, nbytes), carry(Path(folder), nbytes)) for nbytes in (10_000, 46_000, 1_000_000)]
    return [
        {"kb": nbytes / 1e3, "plain_us": plain * 1e6, "curve_us": curve * 1e6, "ratio": curve / plain}
        for nbytes, plain, curve in found
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    blocks = [row for name, case in CASES.items() for row in block_costs(name, case)]
    weights = [weights_costs(parameters) for parameters in (50_000, 1_000_000, 10_000_000)]
    curve = curve_costs()
    if options.json:
        print(json.dumps({"blocks": blocks, "weights": weights, "curve": curve}))
        return
    print(f"{'case':>10}{'step':>24}{'us a block':>14}{'GB/s':>10}")
    for row in blocks:
        print(f"{row['case']:>10}{row['step']:>24}{row['us']:>14,.1f}{row['block_mb'] / row['us'] * 1e3:>10,.1f}")
    print(f"\n{'parameters':>12}{'MB':>8}{'push ms':>10}{'max':>8}{'applied ms':>12}")
    for row in weights:
        times = f"{row['push_ms']:>10.2f}{row['push_max_ms']:>8.2f}{row['applied_ms']:>12.1f}"
        print(f"{row['parameters']:>12,}{row['megabytes']:>8.1f}{times}")
    print(f"\n{'KB':>12}{'plain us':>12}{'CURVE us':>12}{'ratio':>8}   CPU per message, both ends")
    for row in curve:
        print(f"{row['kb']:>12,.0f}{row['plain_us']:>12.1f}{row['curve_us']:>12.1f}{row['ratio']:>8.1f}")


if __name__ == "__main__":
    main()
