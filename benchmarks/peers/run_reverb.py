"""dm-reverb: two processes write unrolls of 64 steps into a queue, one samples them; small steps, or 84x84x4 with `--big`.

A step has the same data as in oatmill: observation, action, reward, two flags, two logits and a value.
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np
import reverb
from common import cpu_of, tell

STEPS, WRITERS, WARM_UP_S, QUEUE = 64, 2, 1.0, 512


def step_of(big):
    """One step's data."""
    observation = np.random.default_rng(0).integers(0, 255, (4, 84, 84)).astype(np.uint8) if big else np.zeros(4, np.float32)
    return {
        "observation": observation,
        "action": np.int32(0),
        "reward": np.float32(1),
        "terminated": np.False_,
        "truncated": np.False_,
        "logits": np.zeros(6 if big else 2, np.float32),
        "value": np.float32(0),
    }


def write(port, big):
    """Write until this process is killed or its parent has ended."""
    step, client, parent = step_of(big), reverb.Client(f"localhost:{port}"), os.getppid()
    with client.trajectory_writer(num_keep_alive_refs=STEPS) as writer:
        while os.getppid() == parent:  # so that a writer ends, too, if the sampler was killed
            for _ in range(STEPS):
                writer.append(step)
            writer.create_item("queue", 1.0, {name: column[-STEPS:] for name, column in writer.history.items()})
            writer.flush(block_until_num_items=8)


def main():
    """Start the server and the writers, and sample for some time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--write", type=int, metavar="PORT")
    options = parser.parse_args()
    big, seconds = options.big, options.seconds
    if options.write is not None:
        write(options.write, big)
        return
    server = reverb.Server([reverb.Table.queue("queue", 32 if big else QUEUE)])
    command = [sys.executable, __file__, "--write", str(server.port), *(["--big"] if big else [])]
    writers = [subprocess.Popen(command) for _ in range(WRITERS)]
    client = reverb.Client(f"localhost:{server.port}")
    try:
        rates = sample(client, seconds, [os.getpid(), *(writer.pid for writer in writers)])
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    tell(peer="reverb", **rates)
    server.stop()


def sample(client, seconds, pids):
    """Unrolls and bytes per second after the warm-up, and the CPU seconds per GB of all processes."""
    taken, nbytes, first, began, cpu = 0, 0, None, None, 0
    for one in client.sample("queue", num_samples=10**9, emit_timesteps=False):
        now = time.perf_counter()
        first = first or now
        if began is None and now - first >= WARM_UP_S:
            began, taken, nbytes, cpu = now, 0, 0, cpu_of(pids)
        taken += 1
        nbytes += sum(np.asarray(column).nbytes for column in one.data)
        if began is not None and now - began >= seconds:
            rates = {"unrolls_per_s": taken / (now - began), "mb_per_s": nbytes / (now - began) / 1e6}
            return rates | {"cpu_s_per_gb": (cpu_of(pids) - cpu) / nbytes * 1e9}
    raise SystemExit("the queue was closed")


if __name__ == "__main__":  # some peers start their workers by importing this file again
    main()
