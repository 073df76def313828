"""Roles that are started one by one, as on several machines, make a run. The guide's Python form works, too."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.spec import AgentSpec
from oatmill.errors import JoinRefusedError, PeerLostError
from protocol.security.keys import make_keys
from runner.operator_client import operator_client
from tests.ports import free_ports
from tests.system.real_runs import SMALL, all_gone, command, environment

# 20 batches of 8 trajectories of 64 steps.
BUDGET = 10_240


PICTURES = """
import gymnasium
import numpy as np


class Pictures(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(action), self.steps == 8, False, {}
"""


@pytest.mark.parametrize(("keyed", "pictures"), [(False, False), (True, False), (False, True)])
def test_replay_actor_and_learner_started_by_hand_train_to_the_end(tmp_path: Path, keyed: bool, pictures: bool) -> None:
    port = free_ports()
    run_dir = tmp_path / "run"
    settings = ["cartpole", *SMALL, f"trainer.total_timesteps={BUDGET}"]
    if pictures:
        (tmp_path / "pictures.py").write_text(PICTURES)
        settings += ["env.kind=factory", "env.factory=pictures:Pictures"]
    server = {"OATMILL_RUN_DIR": str(run_dir), "OATMILL_ADDRESS": f"tcp://127.0.0.1:{port + 2}"}

    if keyed:
        make_keys(tmp_path / "keys")
        server["OATMILL_KEYS"] = str(tmp_path / "keys")

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(*arguments),
            cwd=tmp_path,
            env=environment() | server,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    replay = start("replay", *settings, "--listen", f"tcp://127.0.0.1:{port}")
    actor = start("actor", *settings)
    learner = start("learner", *settings)
    try:
        said, _ = learner.communicate(timeout=120)
        assert learner.returncode == 0, said
        assert json.loads((run_dir / "learner.json").read_text())["env_steps"] == BUDGET
        manifest = json.loads((run_dir / "checkpoints" / "latest" / "manifest.json").read_text())
        encoder = "auto_cpu" if pictures else "auto"  # decision 035, whoever started the roles
        assert manifest["agent"]["settings"]["encoder"] == manifest["settings"]["agent"]["encoder"] == encoder
        assert AgentSpec.from_dict(manifest["agent"]).encoder == ("small_cnn" if pictures else "mlp")
        if keyed:
            with pytest.raises(JoinRefusedError, match="requires a key and this process has none; set --keys"):
                scale_by_stranger(server["OATMILL_ADDRESS"])
            assert stop_by_hand(server["OATMILL_ADDRESS"], tmp_path / "keys")
        for role in (actor, replay):
            role.send_signal(signal.SIGTERM)
            said, _ = role.communicate(timeout=120)
            assert role.returncode == 0, said
    finally:
        for role in (replay, actor, learner):
            role.kill()
            role.communicate()
    assert all_gone(run_dir)


def stop_by_hand(address: str, keys: Path) -> bool:
    """Tell a run to end, as an operator does."""
    with operator_client(address, keys) as hub:
        return hub.stop()


def test_an_actor_with_other_settings_is_refused_by_the_first_one_that_differs(tmp_path: Path) -> None:
    port = free_ports()
    replay = subprocess.Popen(
        command("replay", "cartpole", "--run-dir", "run", "--listen", f"tcp://127.0.0.1:{port}"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        shown = subprocess.run(
            command("actor", "cartpole", "agent.hidden_sizes=[8]", "--address", f"tcp://127.0.0.1:{port + 2}"),
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        replay.terminate()
        replay.wait(60)
    assert shown.returncode == 1
    assert "agent.hidden_sizes: the run has [64, 64], this process has [8]" in shown.stderr.splitlines()[-1]


GUIDE = """
from recipes.cogs_v_clips import train

run = train(num_cogs=4, mission="easy_hearts")
run.trainer.losses.cmpo.enabled = True          # validated on assignment
run.trainer.losses.cmpo.kl_coef = 0.01
run.trainer.total_timesteps = 2560
run.actors.count = 1
run.actors.envs_per_actor = 2
result = run.start()                            # RunResult, the same fields as summary.json

import contextlib
import json
print(json.dumps(result.to_dict()))
try:
    run.trainer.losses.cmpo.kl_coef = 0.02
except ValueError as error:
    print(error)
"""


def test_the_guides_python_form_trains_and_returns_the_content_of_summary_json(tmp_path: Path) -> None:
    script = [sys.executable, "-c", GUIDE]
    shown = subprocess.run(script, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert shown.returncode == 0, shown.stderr
    printed, refusal = shown.stdout.splitlines()
    result = json.loads(printed)
    assert result == json.loads((tmp_path / "runs" / "latest" / "summary.json").read_text())
    assert (result["env_steps"] >= 2560, result["outcome"], result["recipe"]) == (True, "done", "cogs_v_clips")
    assert list(result["losses"]) == ["ppo_critic", "cmpo", "ppo_actor"]
    assert result["losses"]["cmpo"]["coef"] == 0.01
    assert refusal.startswith("trainer.losses.cmpo.kl_coef cannot be changed any more")


def scale_by_stranger(address: str) -> None:
    """Ask without a key, and repeat it if a busy machine did not answer in time."""
    for _ in range(10):
        with operator_client(address) as stranger, contextlib.suppress(PeerLostError):
            stranger.scale(0)
