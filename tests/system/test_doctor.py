"""`oatmill doctor` on real runs: a healthy one, and several with a deliberate mistake."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.deploy.doctor.prometheus_server import local_config, need, prometheus
from tests.system.real_runs import ENDLESS, oatmill, training

CMPO = "trainer.losses.cmpo"
BAD = {
    "a prior that never moves": (
        ["cartpole", "--preset", "conservative", f"{CMPO}.prior_ema_rate=1e-6", "trainer.total_timesteps=40000"],
        ("cmpo prior", f"{CMPO}.prior_ema_rate=0.1"),
    ),
    "a coefficient of 10": (
        ["cartpole", "--preset", "conservative", f"{CMPO}.kl_coef=10", "trainer.total_timesteps=40000"],
        ("cmpo", f"{CMPO}.kl_coef="),
    ),
    "a learning rate times 100": (
        ["cartpole", "trainer.optimizer.learning_rate=0.1", "trainer.total_timesteps=40000"],
        ("learning rate", "trainer.optimizer.learning_rate=0.01"),
    ),
    "one starved actor": (
        [
            "cartpole",
            "env.kind=factory",
            "env.factory=slow_world:make",
            "actors.count=1",
            "actors.envs_per_actor=1",
            "trainer.total_timesteps=2000",
        ],
        ("bottleneck", "actors.envs_per_actor=4"),
    ),
    "Muesli at 1.0 with 157 actions": (
        [
            "cogs_v_clips",
            "env.mission=easy_hearts",
            "--preset",
            "conservative",
            "trainer.losses.muesli_model.policy_pred_coef=1.0",
            "trainer.total_timesteps=24000",
        ],
        ("dominance", "trainer.losses.muesli_model.policy_pred_coef=0.0"),
    ),
}
SLOW_WORLD = """
import time
import gymnasium

class Slow(gymnasium.Wrapper):
    def step(self, action):
        time.sleep(0.005)
        return super().step(action)

def make():
    return Slow(gymnasium.make("CartPole-v1"))
"""
"""Settings with an environment that is slower than any learner, on every machine."""


def findings_of(folder: Path, *arguments: str) -> dict[str, list[str]]:
    """The problems that the doctor finds in a run: topics, each with the settings to try."""
    (folder / "slow_world.py").write_text(SLOW_WORLD)
    run = oatmill(folder, "train", *arguments, "--run-dir", "run", timeout_s=240)
    assert run.returncode == 0, run.stderr
    said = json.loads(oatmill(folder, "doctor", "run", "--json").stdout)
    found = {finding["topic"]: finding["tries"] for finding in said["findings"] if finding["wrong"]}
    assert said["healthy"] == (not found)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BAD)
def test_each_deliberate_mistake_is_found_and_the_remedy_is_named(tmp_path: Path, name: str) -> None:
    arguments, (topic, setting) = BAD[name]
    found = findings_of(tmp_path, *arguments)
    assert any(tried.startswith(setting) for tried in found[topic]), found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_wrong_with_a_healthy_run(tmp_path: Path) -> None:
    assert findings_of(tmp_path, "cartpole", "trainer.total_timesteps=60000") == {}


def test_prometheus_shows_the_same_as_the_folder_during_the_run_and_after_it(tmp_path: Path) -> None:
    need("prometheus")

    def wrong(*source: str) -> dict[str, list[str]]:
        said = oatmill(tmp_path, "doctor", *source, "--json").stdout or '{"findings": []}'
        return {finding["topic"]: finding["tries"] for finding in json.loads(said)["findings"] if finding["wrong"]}

    with training(tmp_path, "--preset", "conservative", *ENDLESS, f"{CMPO}.prior_ema_rate=1e-9") as train:
        train.until(lambda: train.learner_steps() >= 1)
        train.until(lambda: {"replay", "learner"} <= train.run_json()["endpoints"].keys())
        places = {role: train.run_json()["endpoints"][role]["metrics"].split("/")[2] for role in ("replay", "learner")}
        with prometheus(tmp_path, local_config(tmp_path, places)) as server:
            train.until(lambda: "cmpo prior" in wrong("--prometheus", server.url))
            found = wrong("--prometheus", server.url)
            assert found["cmpo prior"] == wrong("run")["cmpo prior"] == [f"{CMPO}.prior_ema_rate=0.1"]
            assert oatmill(tmp_path, "stop").returncode == 0
            assert train.end() == 0
            time.sleep(6)  # one scrape finds no process
            assert "cmpo prior" in wrong("--prometheus", server.url), "series of ended processes are still known"
            assert wrong("--prometheus", server.url, "--match", "job=replay") == {}
