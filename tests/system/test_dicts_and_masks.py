"""A whole run with Dict observations and action masks. The environment checks every action. Real processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import oatmill as package
from tests.system.real_runs import SMALL, oatmill

ENVIRONMENT = '''
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Text


class Corridors(gymnasium.Env):
    """Two of five doors are open in each step, and going through the lower one is worth 1. A closed one is an error."""

    observation_space = Dict(
        camera=Box(0, 255, (6, 6, 3), np.uint8), body=Dict(place=Box(-1, 1, (2,)), mode=Discrete(3)), order=Text(30)
    )
    action_space = Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.seen()

    def seen(self):
        self.open = self.np_random.choice(5, 2, replace=False)
        mask = np.isin(np.arange(5), self.open).astype(np.int8)
        camera = np.zeros((6, 6, 3), np.uint8)
        camera[self.open] = 255
        body = {"place": np.array([self.steps / 8, 1], np.float32), "mode": self.steps % 3}
        return {"camera": camera, "body": body, "order": "take the lower door"}, {"action_mask": mask}

    def step(self, action):
        if action not in self.open:
            raise ValueError(f"door {action} is closed, {self.open} are open")
        reward = float(action == self.open.min())
        self.steps += 1
        observation, info = self.seen()
        return observation, reward, False, self.steps == 8, info


def make():
    return Corridors()
'''


def test_a_run_with_a_dict_and_masks_trains_is_evaluated_and_loaded(tmp_path: Path) -> None:
    (tmp_path / "corridors.py").write_text(ENVIRONMENT)
    settings = ["env.kind=factory", "env.factory=corridors:make", "agent.encoders.body/place=mlp"]
    done = oatmill(
        tmp_path,
        *("train", "cartpole", "--run-dir", "run", "--actors", "1", "--preset", "conservative"),
        *(*SMALL, *settings, "trainer.total_timesteps=1536", "actors.unroll_length=32"),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["ledger"]["lost"] == 0
    plan = (tmp_path / "run" / "plan.txt").read_text()
    assert "body/place  vector float32 [2], encoder mlp" in plan
    assert "camera      image uint8 [3, 6, 6], encoder small_cnn" in plan
    assert "action_mask mask bool [5]" in plan
    assert summary["entropy"]["fraction"] <= 1.0001  # log 2 nats is the entropy of a uniform choice between two open doors
    assert summary["entropy"]["nats"] <= np.log(2) + 1e-6

    played = oatmill(tmp_path, "eval", "run", "--episodes", "2", "--trust", "--json")
    assert played.returncode == 0, played.stderr

    agent = package.load(tmp_path / "run")
    rng = np.random.default_rng(0)
    mask = np.eye(5, dtype=np.int8)[rng.integers(0, 5, 30)]
    keys = {path: np.zeros((30, *part.shape), part.dtype) for path, part in agent.spec.seen.items()}
    assert (agent.act(keys, action_mask=mask) == mask.argmax(1)).all()
