"""A small real run with actions of numbers and choices; the policy is then evaluated and loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import oatmill
from tests.system.real_runs import SMALL
from tests.system.real_runs import oatmill as run_oatmill

ENVIRONMENT = '''
import gymnasium
import numpy as np


class Aim(gymnasium.Env):
    """Push a number towards the one that is shown, by a force of 0 to 10 and a direction."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Dict(
        {"force": gymnasium.spaces.Box(0, 10, (1,), np.float64), "side": gymnasium.spaces.Discrete(2)}
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.shown(), {}

    def step(self, action):
        if action not in self.action_space:
            raise ValueError(f"not an action of mine: {action}")
        self.steps += 1
        pushed = (2 * action["side"] - 1) * action["force"][0] / 10
        reward = -abs(pushed - self.wanted)
        return self.shown(), float(reward), False, self.steps == 20, {}

    def shown(self):
        self.wanted = self.np_random.uniform(-1, 1)
        return np.array([self.wanted, 1], np.float32)


def make():
    return Aim()
'''
OWN = ["env.kind=factory", "env.factory=aiming:make"]
LOSSES = ["cmpo", "dynamics", "muesli_model"]


@pytest.mark.timeout(600)
def test_a_run_with_numbers_and_choices_learns_reports_and_can_be_played(tmp_path: Path) -> None:
    (tmp_path / "aiming.py").write_text(ENVIRONMENT)
    shown = run_oatmill(
        tmp_path,
        *("train", "cartpole", "--run-dir", "run", "--seed", "3", "--json"),
        *(*SMALL, *OWN, *(f"trainer.losses.{loss}.enabled=true" for loss in LOSSES)),
        *("trainer.total_timesteps=8192", "trainer.gamma=0.5", "trainer.reward_scale=1", "metrics.report_every=4"),
        *("trainer.losses.ppo_actor.ent_coef=0", "agent.squash=tanh", "agent.log_std_init=-0.5"),
        timeout_s=240,
    )
    assert shown.returncode == 0, shown.stderr
    summary = json.loads(shown.stdout)
    assert summary["outcome"] == "done"
    assert summary["ledger"]["dropped"]["rejected"] == 0
    assert summary["entropy"]["fraction"] is None
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert -5 <= line["log_std"] <= 2
        assert line["approx_kl"] >= 0
        assert line["losses"]["cmpo"]["kl"] is not None
    assert "Discrete [2] and Box [1] within 0..10" in (tmp_path / "run" / "plan.txt").read_text().replace(
        "MultiDiscrete", "Discrete"
    )
    played = run_oatmill(tmp_path, "eval", "run", "--trust", "--episodes", "4", "--json", timeout_s=120)
    assert played.returncode == 0, played.stderr
    assert np.isfinite(json.loads(played.stdout)["episode_return"]["mean"])
    doctor = run_oatmill(tmp_path, "doctor", "run", timeout_s=120)
    assert not re.search(r"\bnan\b", doctor.stdout)
    actions = oatmill.load(tmp_path / "run").act(np.array([[0.5, 1], [-0.5, 1]], np.float32), deterministic=True)
    assert (actions["force"].shape, actions["force"].dtype, actions["side"].shape) == ((2, 1), np.float64, (2,))
    assert ((actions["force"] >= 0) & (actions["force"] <= 10)).all()
