"""Normalisation inside the policy, in whole runs: CartPole with observations that are multiplied by 1,000, plus 5,000."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import agent
from tests.actors.environments.toy_environments import make_far_cartpole
from tests.system.real_runs import SMALL, oatmill

SETTINGS = {
    "env": {"kind": "factory", "factory": "tests.actors.environments.toy_environments:make_far_cartpole"},
    "agent": {"normalize_observations": True},
}


def train(place: Path, *arguments: str, timeout_s: float = 120) -> dict[str, Any]:
    (place / "far.yaml").write_text(yaml.safe_dump(SETTINGS))
    shown = oatmill(place, "train", "cartpole", "--config", "far.yaml", "--json", *arguments, timeout_s=timeout_s)
    assert shown.returncode == 0, shown.stderr
    summary: dict[str, Any] = json.loads(shown.stdout)
    return summary


def test_every_trained_step_is_counted_once_and_statistics_come_with_the_checkpoint(tmp_path: Path) -> None:
    replayed = ("replay.fraction=0.5", "trainer.losses.ppo_actor.anchor=proximal", "trainer.normalize_returns=true")
    summary = train(tmp_path, "--run-dir", "run", *SMALL, *replayed, "trainer.total_timesteps=5120")
    checkpoint = tmp_path / "run" / "checkpoints" / "latest"
    saved = load_file(checkpoint / "model.safetensors")
    assert float(saved["normaliser.count"]) == summary["env_steps"]
    assert (np.abs(saved["normaliser.mean"] - 5000) < 1000).all()
    rewards = json.loads((checkpoint / "manifest.json").read_text())["reward_scale"]
    assert rewards["count"] == summary["env_steps"]
    # The reward is 1, so the discounted return so far is between 1 and 1 / (1 - 0.99), and it grows during an episode.
    assert 1 < rewards["mean"] < 100


@pytest.mark.slow
def test_observations_far_from_0_are_learned_and_the_checkpoint_takes_them_unscaled(tmp_path: Path) -> None:
    train(tmp_path, "--run-dir", "run", "--seed", "0", timeout_s=1800)
    loaded = agent.load(tmp_path / "run" / "checkpoints" / "best")
    environment, returns = make_far_cartpole(), []
    for episode in range(20):
        observation, _ = environment.reset(seed=episode)
        ended, total = False, 0.0
        while not ended:
            action = int(loaded.act(observation[None], deterministic=True)[0])
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    assert np.mean(returns) >= 475
