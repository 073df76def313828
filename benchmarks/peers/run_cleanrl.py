"""CleanRL's `ppo_atari_envpool.py` on the CPU: eight games in one process, stepped by EnvPool, and a batch of 1,024 steps.

CleanRL is not a package: its scripts are run from a checkout, which the variable CLEANRL names. The script runs unchanged, with
the common settings as its arguments. Its learning rate falls to 0, its advantages are normalised per minibatch, and its value
loss is clipped.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import SETTINGS, mean_of_last, options, tell

RETURN = re.compile(r"episodic_return=\[?(-?[\d.]+)")


def arguments(chosen):
    """The command line of the script."""
    s = SETTINGS
    return {
        "env-id": s["environment"].capitalize() + "-v5",
        "seed": chosen.seed,
        "total-timesteps": chosen.steps,
        "num-envs": s["batch_trajectories"],
        "num-steps": s["unroll"],
        "num-minibatches": s["minibatches"],
        "update-epochs": s["epochs"],
        "learning-rate": s["learning_rate"],
        "gamma": s["gamma"],
        "gae-lambda": s["gae_lambda"],
        "clip-coef": s["clip"],
        "ent-coef": s["entropy"],
        "vf-coef": s["value"],
        "max-grad-norm": s["max_grad_norm"],
    }


def main():
    """Train, and note when each iteration of the script ends: it prints a line with SPS."""
    chosen = options()
    script = Path(os.environ["CLEANRL"]).resolve() / "cleanrl/ppo_atari_envpool.py"
    settings = (f"--{name}={value}" for name, value in arguments(chosen).items())
    command = [sys.executable, "-u", str(script), "--no-cuda", *settings]
    ended, returns = [], []
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # one process: it may have all cores
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if line.startswith("SPS:"):
                ended.append(time.perf_counter())
            elif found := RETURN.search(line):
                returns.append(float(found[1]))
        if process.wait():
            raise SystemExit(f"{script} ended with {process.returncode}")
    batch = SETTINGS["batch_trajectories"] * SETTINGS["unroll"]
    rate = (len(ended) - 1) * batch / (ended[-1] - ended[0]) if len(ended) > 1 else 0.0
    tell(peer="cleanrl", steps_per_s=rate, env_steps=len(ended) * batch, **{"return": mean_of_last(returns)})


if __name__ == "__main__":
    main()
