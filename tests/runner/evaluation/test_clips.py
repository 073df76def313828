"""The evaluator's videos: how often, how long, how large, and what happens where there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from actors.settings import FactoryEnv
from learner.reporting.evaluations import Evaluations
from oatmill.errors import UserError
from recipes import cartpole
from runner.evaluation import clips
from runner.evaluation.evaluator import Evaluator
from runner.plan_report import report_plan
from runner.settings import EvaluatorSettings, RunSettings
from tests.runner.evaluation.test_evaluation import save_run
from tests.runner.evaluation.test_evaluator import add, lines


def filmed(run_dir: Path, *, versions: tuple[int, ...] = (), **settings: Any) -> list[str | None]:
    """The videos of the checkpoint of a run and of further versions, as the evaluator names them."""
    evaluator = Evaluator(run_dir, EvaluatorSettings(episodes=1, **settings))
    assert evaluator.play_newest()
    for version in versions:
        add(run_dir, version)
        assert evaluator.play_newest()
    return [line["video"] for line in lines(run_dir)]


def shown(path: Path) -> tuple[int, tuple[int, int]]:
    """The number of pictures of a GIF of CartPole, by their time of 20 ms each, as equal ones are joined; and their size."""
    with Image.open(path) as video:
        assert video.format == "GIF"
        milliseconds = sum(frame.info["duration"] for frame in ImageSequence.Iterator(video))
        return milliseconds // 20, video.size


def test_the_first_evaluation_and_every_second_one_has_a_video_of_at_most_so_many_pictures(tmp_path: Path) -> None:
    run_dir = save_run(tmp_path, cartpole.settings())
    reported = Evaluations(run_dir)
    videos = filmed(run_dir, versions=(4, 5), video_every=2, video_frames=5)
    assert videos == ["videos/step-3.gif", None, "videos/step-5.gif"]
    # CartPole draws 600 x 400 pixels, of which every second row and column is kept.
    assert shown(run_dir / "videos" / "step-3.gif") == (5, (300, 200))
    assert (run_dir / "videos" / "step-3.gif").stat().st_size < 50_000
    assert (reported.newest() or {})["video"] == "videos/step-5.gif"


def test_a_short_episode_is_shown_to_its_end(tmp_path: Path) -> None:
    run_dir = save_run(tmp_path, cartpole.settings())
    filmed(run_dir, video_every=1, video_frames=3000, best_by="deterministic")
    assert 8 < shown(run_dir / "videos" / "step-3.gif")[0] < 600, "CartPole ends an episode after 8 to 500 steps"


def test_without_the_setting_there_are_no_videos(tmp_path: Path) -> None:
    run_dir = save_run(tmp_path, cartpole.settings())
    assert filmed(run_dir) == [None]
    assert not (run_dir / "videos").exists()


def test_a_video_that_is_too_large_is_not_kept_and_no_more_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "LARGEST_BYTES", 1000)
    run_dir = save_run(tmp_path, cartpole.settings())
    assert filmed(run_dir, versions=(4,), video_every=1) == [None, None]
    assert [*(run_dir / "videos").iterdir()] == []
    (event,) = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert event["event"] == "no_more_videos"
    assert "at most 1,000 are kept; lower evaluator.video_frames" in event["text"]


DARK = """
import gymnasium
class Dark(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,))
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}
    def step(self, action):
        return self.observation_space.sample(), 1.0, True, False, {}
"""


def test_an_environment_without_pictures_is_evaluated_and_one_line_says_that_there_are_no_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dark_world.py").write_text(DARK)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = cartpole.settings()
    settings.env = FactoryEnv(factory="dark_world:Dark")
    (tmp_path / "run").mkdir()
    run_dir = save_run(tmp_path / "run", settings)
    assert filmed(run_dir, versions=(4,), video_every=1) == [None, None]
    assert lines(run_dir)[0]["drawn"]["mean"] == 1.0
    (event,) = (run_dir / "events.jsonl").read_text().splitlines()
    assert "the evaluator makes no more videos: env.factory=dark_world:Dark cannot be rendered" in json.loads(event)["text"]


def test_pictures_are_reduced_by_a_whole_factor_and_small_ones_are_enlarged() -> None:
    assert clips.resized(np.zeros((400, 600, 3), np.uint8)).shape == (200, 300, 3)
    assert clips.resized(np.zeros((100, 961, 3), np.uint8)).shape == (25, 241, 3)
    assert clips.resized(np.zeros((240, 320, 3), np.uint8)).shape == (240, 320, 3)
    assert clips.resized(np.zeros((80, 80, 3), np.uint8)).shape == (240, 240, 3)


def test_a_run_that_is_to_make_videos_without_pillow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.plan_report.importlib.util.find_spec", lambda name: None if name == "PIL" else object())
    settings = RunSettings.of(cartpole.settings().to_dict() | {"evaluator": {"enabled": True, "video_every": 3}})
    with pytest.raises(UserError, match=r"evaluator.video_every=3 needs the package pillow.*oatmill\[video\]"):
        report_plan(settings)
