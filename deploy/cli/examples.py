"""What is shown below each command's `--help`: a few lines to copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EXAMPLES: Mapping[str, Sequence[str]] = {
    "": ("oatmill train cartpole", "oatmill top", "oatmill help train"),
    "train": (
        "oatmill train cartpole",
        "oatmill train cartpole trainer.gamma=0.98 trainer.total_timesteps=100000 --seed 1",
        "oatmill train cogs_v_clips --preset tuned --actors 2 --run-dir runs/cogs",
        "oatmill train --resume --run-dir runs/cogs trainer.total_timesteps=2000000",
    ),
    "plan": ("oatmill plan cartpole", "oatmill plan cogs_v_clips --preset conservative --json"),
    "settings": ("oatmill settings learning_rate", "oatmill settings entropy", "oatmill settings n_steps"),
    "status": ("oatmill status", "oatmill status runs/cogs --json", "oatmill status --address tcp://HOST:7302"),
    "top": ("oatmill top", "oatmill top runs/cogs --once"),
    "scale": ("oatmill scale --actors 4", "oatmill scale runs/cogs --actors 4"),
    "stop": ("oatmill stop", "oatmill stop runs/cogs"),
    "eval": (
        "oatmill eval runs/latest",
        "oatmill eval runs/cogs/checkpoints/step-100 --episodes 20 --deterministic",
        "oatmill eval runs/latest --record video.mp4",
    ),
    "probe": ("oatmill probe runs/latest", "oatmill probe runs/lunar --states 500 --json"),
    "export": (
        "oatmill export runs/latest --format onnx --output policy.onnx",
        "oatmill export runs/cogs/checkpoints/step-100 --format torch",
    ),
    "push": (
        "oatmill push runs/latest ann/cartpole --private",
        "oatmill push runs/latest ann/cartpole --episodes 100 --dry-run policy",
    ),
    "compare": (
        "oatmill compare cartpole --seeds 3",
        "oatmill compare cartpole --arms '' --arm fast=trainer.epochs=2",
        "oatmill compare --env MountainCar-v0 --arms baseline,tuned",
    ),
    "sweep": (
        "oatmill sweep cartpole --param trainer.optimizer.learning_rate=1e-4..1e-2:log --param trainer.epochs=1..8",
        "oatmill sweep cartpole --param agent.hidden_sizes='[[64], [64, 64]]' --trials 20 --seeds 2 --pruner none",
    ),
    "doctor": ("oatmill doctor", "oatmill doctor runs/cogs", "oatmill doctor --prometheus http://127.0.0.1:9090"),
    "plot": ("oatmill plot", "oatmill plot runs/cogs runs/cartpole"),
    "chaos": ("oatmill chaos cartpole --seconds 60",),
    "join": ("oatmill join tcp://HOST:7302 --actors 8 --keys keys/actor", "oatmill join HOST --actors 8"),
    "slurm": (
        "oatmill slurm cogs_v_clips --actors 14 --partition batch --time 4:00:00",
        "oatmill slurm cogs_v_clips --nodes 2 --gpus-per-node 2 --actors-per-node 30 --mem 64G --dry-run",
    ),
    "keygen": ("oatmill keygen keys", "oatmill train cogs_v_clips --listen tcp://0.0.0.0:7300 --keys keys"),
    "replay": ("oatmill replay cogs_v_clips --run-dir runs/replay --listen tcp://0.0.0.0:7300 --keys keys",),
    "actor": ("oatmill actor cogs_v_clips --address tcp://HOST:7302 --keys keys",),
    "learner": ("oatmill learner cogs_v_clips --address tcp://HOST:7302 --run-dir runs/cogs --keys keys",),
    "evaluator": ("oatmill evaluator --run-dir runs/cogs",),
    "health": ("oatmill health replay",),
    "cluster up": ("oatmill cluster up cogs_v_clips --actors 4", "oatmill cluster up cogs_v_clips --on ray --insecure"),
    "cluster scale": ("oatmill cluster scale --actors 8",),
    "cluster status": ("oatmill cluster status", "oatmill cluster status --json"),
    "cluster down": ("oatmill cluster down", "oatmill cluster down --volumes"),
}
"""By the command's words; the empty name is `oatmill` itself."""


def epilog(name: str) -> str | None:
    """A command's examples as Typer shows them below its options; None if there are none."""
    lines = EXAMPLES.get(name)
    return None if lines is None else "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
