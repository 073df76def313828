"""Playing with a checkpoint's policy: a real one, in its own environment and in none that it does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from actors.environments.base import Environment, Episode
from actors.environments.checks import first_observations
from actors.environments.make import describe
from agent.checkpoint_manifest import MANIFEST, MODEL_FILE, file_digest
from agent.model import AgentModel
from agent.spec import AgentSpec
from oatmill.errors import RunError, UserError
from protocol.data.trajectory import Array
from recipes import cartpole
from runner.evaluation.evaluation import evaluate_checkpoint
from runner.evaluation.playing import play
from runner.settings import RunSettings, write_config
from tests.actors.environments.test_boundary import own, started
from tests.actors.test_unroll import fails


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the checkpoint of a network that has learned nothing."""
    return save_run(tmp_path_factory.mktemp("run"), cartpole.settings())


def save_run(folder: Path, settings: RunSettings) -> Path:
    write_config(settings, folder / "config.yaml")
    spaces, _ = describe(settings.env)
    spec = AgentSpec(spaces, settings.agent)
    checkpoint = folder / "checkpoints" / "step-3"
    checkpoint.mkdir(parents=True)
    save_file({name: value.detach() for name, value in AgentModel(spec).named_parameters()}, checkpoint / MODEL_FILE)
    progress = {"learner_step": 3, "env_steps": 192, "policy_version": 3}
    manifest: dict[str, Any] = progress | {"agent": spec.to_dict(), "settings": settings.to_dict()}
    manifest["files"] = {MODEL_FILE: file_digest(checkpoint / MODEL_FILE)}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    (folder / "checkpoints" / "latest").symlink_to("step-3")
    return folder


def test_a_run_folder_and_its_checkpoints_are_taken_and_one_seed_gives_one_result(run_dir: Path) -> None:
    results = [
        evaluate_checkpoint(path, episodes=4, deterministic=False, seed=1).to_dict() | {"seconds": 0.0}
        for path in (run_dir, run_dir / "checkpoints" / "latest", run_dir / "checkpoints" / "step-3")
    ]
    assert results[0] == results[1] == results[2]
    assert results[0]["checkpoint"] == str(run_dir / "checkpoints" / "step-3")
    assert (results[0]["learner_step"], results[0]["env_steps"]) == (3, 192)
    # CartPole gives 1 a step, so the return is the length; a network that has learned nothing falls soon.
    assert results[0]["episode_return"]["mean"] == results[0]["episode_length"]
    assert 8 <= results[0]["episode_return"]["mean"] < 200
    assert results[0]["episode_return"]["n"] == 4


class Idle:
    """An agent that always does the same, and remembers which rows were reset."""

    def __init__(self) -> None:
        self.resets: list[list[bool]] = []

    def act_in_rows(self, observations: Array, *, deterministic: bool) -> Array:
        assert deterministic
        return np.zeros(len(observations), np.int64)

    def reset(self, rows: Array) -> None:
        self.resets.append(rows.tolist())


def played_in(agent: Any, environment: Environment, *, episodes: int) -> list[Episode]:
    return play(agent, environment, first_observations(environment), episodes=episodes, deterministic=True)


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP", "DISABLED"])
def test_each_copy_of_a_vector_env_plays_an_equal_share_however_long_its_episodes_are(mode: str) -> None:
    agent: Any = Idle()
    played = played_in(agent, started(own("Scripted", mode=mode), copies=2), episodes=4)
    # Copy 0 gets 3 every 2 steps, copy 1 gets 36 every 3 steps. The first four to end would be 3, 36, 3 and 3.
    assert sorted(episode.episode_return for episode in played) == [3, 3, 36, 36]
    assert sorted(episode.length for episode in played) == [2, 2, 3, 3]
    assert agent.resets[:2] == [[True, False], [mode == "NEXT_STEP", True]]


def test_episodes_that_do_not_divide_by_the_copies_are_played_all_the_same() -> None:
    agent: Any = Idle()
    played = played_in(agent, started(own("Scripted", mode="SAME_STEP"), copies=2), episodes=3)
    assert sorted(episode.episode_return for episode in played) == [3, 36, 36]


def test_numbers_that_are_not_finite_end_an_evaluation() -> None:
    agent: Any = Idle()
    with pytest.raises(RunError, match=r"gave observations that are not finite \(NaN or infinity\): nan at index \[0, 0\]"):
        played_in(agent, started(fails("nan in step"), copies=1), episodes=1)
    with pytest.raises(RunError, match=r"gave rewards that are not finite \(NaN or infinity\): inf at index \[0\]"):
        played_in(agent, started(fails("infinite reward"), copies=1), episodes=1)


def test_a_vector_env_with_a_number_of_copies_of_its_own_is_evaluated_with_all_of_them(tmp_path: Path) -> None:
    settings = cartpole.settings()
    settings.env = own("Scripted", mode="SAME_STEP")
    settings.actors.envs_per_actor = 2
    result = evaluate_checkpoint(save_run(tmp_path, settings), episodes=10, deterministic=True, seed=0, trust=True)
    assert result.episode_return == {"mean": 19.5, "std": 16.5, "n": 10}  # five of 3 and five of 36
    assert result.episode_length == 2.5


def test_another_seed_plays_other_episodes(run_dir: Path) -> None:
    returns = {
        evaluate_checkpoint(run_dir, episodes=5, deterministic=False, seed=seed).episode_return["mean"] for seed in range(3)
    }
    assert len(returns) > 1


def test_a_checkpoint_of_another_environment_is_refused_by_what_differs(run_dir: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run_dir / "checkpoints" / "step-3", tmp_path / "copied"))
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["settings"]["env"] = {"kind": "gymnasium", "id": "Acrobot-v1"}
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(
        UserError,
        match=r"was trained in another environment than env\.id=Acrobot-v1: expected observation\.shape \[6\], got \[4\]",
    ):
        evaluate_checkpoint(copied, episodes=1, deterministic=False, seed=0)


def test_a_checkpoint_is_played_away_from_its_run(run_dir: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run_dir / "checkpoints" / "step-3", tmp_path / "anywhere" / "mine"))
    there, here = (
        evaluate_checkpoint(path, episodes=2, deterministic=True, seed=1)
        for path in (copied, run_dir / "checkpoints" / "step-3")
    )
    assert there.episode_return == here.episode_return
    assert there.checkpoint == str(copied)


@pytest.mark.parametrize("settings", [None, {}, {"env": {"kind": "nothing"}}, []])
def test_a_checkpoint_that_does_not_say_its_environment_is_refused(run_dir: Path, tmp_path: Path, settings: Any) -> None:
    copied = Path(shutil.copytree(run_dir / "checkpoints" / "step-3", tmp_path / "copied"))
    manifest = json.loads((copied / MANIFEST).read_text()) | {"settings": settings}
    (copied / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="has no valid settings of its environment"):
        evaluate_checkpoint(copied, episodes=1, deterministic=False, seed=0)


def test_what_is_no_checkpoint_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "nothing", "is not a checkpoint: expected a folder, such as"),
        (tmp_path / "file", "is not a checkpoint: expected a folder, such as"),
        (tmp_path / "a" / "b", "is not a checkpoint: expected a folder with manifest.json"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_checkpoint(path, episodes=1, deterministic=False, seed=0)


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_a_video_shows_one_more_episode_and_changes_no_number(run_dir: Path, tmp_path: Path, name: str) -> None:
    plain = evaluate_checkpoint(run_dir, episodes=2, deterministic=False, seed=1)
    filmed = evaluate_checkpoint(run_dir, episodes=2, deterministic=False, seed=1, record=tmp_path / name)
    assert filmed.episode_return == plain.episode_return
    assert filmed.recording is not None
    # The reset, and every step to the end.
    assert filmed.recording.frames == filmed.recording.length + 1
    assert filmed.recording.episode_return == filmed.recording.length
    assert (tmp_path / name).stat().st_size > 1000
    assert json.loads(json.dumps(filmed.to_dict()))["recording"]["path"] == str(tmp_path / name)
    assert plain.to_dict()["recording"] is None


def test_a_file_that_cannot_be_made_is_refused_before_the_checkpoint_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--record takes a file that ends in"):
        evaluate_checkpoint(tmp_path / "nothing", episodes=1, deterministic=False, seed=0, record=tmp_path / "out.avi")


def test_a_file_that_cannot_be_written_is_one_line(run_dir: Path) -> None:
    with pytest.raises(RunError, match=r"^/proc/out\.gif could not be written: "):
        evaluate_checkpoint(run_dir, episodes=1, deterministic=False, seed=0, record=Path("/proc/out.gif"))
