"""The evaluator: fixed seeds, every N versions, the best checkpoint, and an end with the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.checkpoint_manifest import MANIFEST
from learner.reporting.evaluations import EVALUATIONS_FILE, Evaluations
from learner.reporting.metrics import LearnerMetrics
from oatmill.files.atomic import replace_link
from recipes import cartpole
from runner.evaluation import evaluator as module
from runner.evaluation.evaluation import Evaluation
from runner.evaluation.evaluator import Evaluator
from runner.result import newest_evaluation
from runner.settings import EvaluatorSettings, write_config
from tests.runner.evaluation.test_evaluation import save_run


class Never:
    is_set = False


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return save_run(tmp_path, cartpole.settings())


def add(run_dir: Path, version: int) -> None:
    """A newer checkpoint with the same weights."""
    checkpoints = run_dir / "checkpoints"
    new = checkpoints / f"step-{version}"
    shutil.copytree(checkpoints / "step-3", new)
    manifest = json.loads((new / MANIFEST).read_text()) | {"policy_version": version, "learner_step": version}
    (new / MANIFEST).write_text(json.dumps(manifest))
    replace_link(checkpoints / "latest", new.name)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / EVALUATIONS_FILE).read_text().splitlines()]


def returns(monkeypatch: pytest.MonkeyPatch, means: dict[int, tuple[float, float]]) -> None:
    """Let the evaluation of each learner step give these means, deterministic and drawn."""

    def play(path: Path, *, episodes: int, deterministic: bool, seed: int, trust: bool) -> Evaluation:
        assert (seed, trust) == (1000, True)
        step = int(path.name.removeprefix("step-"))
        mean = means[step][0 if deterministic else 1]
        episode_return = {"mean": mean, "std": 0.0, "n": episodes}
        return Evaluation(str(path), step, 10 * step, episode_return, 1.0, {}, None, 0.1, deterministic, seed)

    monkeypatch.setattr(module, "evaluate_checkpoint", play)


def test_the_same_weights_give_the_same_returns_in_every_version(run_dir: Path) -> None:
    evaluator = Evaluator(run_dir, EvaluatorSettings(episodes=3))
    assert evaluator.play_newest()
    assert not evaluator.play_newest(), "it was played already"
    add(run_dir, 4)
    assert evaluator.play_newest()
    first, second = lines(run_dir)
    assert (first["policy_version"], second["policy_version"]) == (3, 4)
    for policy in ("deterministic", "drawn"):
        assert first[policy] == second[policy]
        assert first[policy]["n"] == 3
    assert first["drawn"]["mean"] > 8, "CartPole gives 1 a step"


def test_versions_in_between_are_left_out_but_not_the_last_one(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    returns(monkeypatch, dict.fromkeys((3, 5, 8, 9), (1.0, 1.0)))
    evaluator = Evaluator(run_dir, EvaluatorSettings(every=5))
    assert evaluator.play_newest()
    add(run_dir, 5)
    assert not evaluator.play_newest()
    add(run_dir, 8)
    assert evaluator.play_newest()
    add(run_dir, 9)
    assert not Evaluator(run_dir, EvaluatorSettings(every=5)).play_newest(), "one that was restarted knows what was played"
    (run_dir / "learner.json").touch()
    evaluator.run(Never())  # type: ignore[arg-type]
    assert [line["learner_step"] for line in lines(run_dir)] == [3, 8, 9]


@pytest.mark.parametrize(("by", "best"), [("drawn", "step-4"), ("deterministic", "step-5")])
def test_best_is_the_checkpoint_that_played_best(run_dir: Path, monkeypatch: pytest.MonkeyPatch, by: Any, best: str) -> None:
    returns(monkeypatch, {3: (1.0, 1.0), 4: (2.0, 9.0), 5: (8.0, 8.0)})
    for version in (3, 4, 5):
        if version > 3:
            add(run_dir, version)
        assert Evaluator(run_dir, EvaluatorSettings(best_by=by)).play_newest()
    assert (run_dir / "checkpoints" / "best").resolve().name == best
    assert newest_evaluation(run_dir) == {
        "deterministic": {"mean": 8.0, "std": 0.0, "n": 20},
        "drawn": {"mean": 8.0, "std": 0.0, "n": 20},
        "env_steps": 50,
        "checkpoint": "step-5",
    }


def test_a_run_without_checkpoints_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert not Evaluator(tmp_path, EvaluatorSettings()).play_newest()
    assert newest_evaluation(tmp_path) is None


def test_the_learner_reports_each_evaluation_once(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    returns(monkeypatch, {3: (1.0, 2.0), 4: (3.0, 4.0)})
    before = Evaluations(run_dir)
    assert before.newest() is None
    assert Evaluator(run_dir, EvaluatorSettings()).play_newest()
    after = Evaluations(run_dir)  # of a learner that was restarted
    newest = before.newest()
    assert newest is not None
    assert (newest["deterministic"]["mean"], newest["drawn"]["mean"], newest["env_steps"]) == (1.0, 2.0, 30)
    assert before.newest() is None
    assert after.newest() is None
    add(run_dir, 4)
    assert Evaluator(run_dir, EvaluatorSettings()).play_newest()
    assert after.newest() is not None


class Stages:
    """Asked to stop after the given stages, each of which is done when the evaluator has had a turn."""

    def __init__(self, *stages: Callable[[], object]) -> None:
        self._stages = list(stages)

    @property
    def is_set(self) -> bool:
        if self._stages:
            self._stages.pop(0)()
            return False
        return True


def test_in_a_container_it_waits_for_the_run_stays_after_its_end_and_follows_its_settings(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returns(monkeypatch, dict.fromkeys((3, 4, 6, 7), (1.0, 1.0)))
    monkeypatch.setattr(module, "WAIT_S", 0.0)
    config, settings = run_dir / "config.yaml", cartpole.settings()
    config.unlink(missing_ok=True)
    settings.evaluator.episodes = 4
    assert module.wait_for(config, Stages(lambda: None, lambda: write_config(settings, config)))  # type: ignore[arg-type]

    def goes_on() -> None:
        """The learner is started again with other settings, and its checkpoints come more often than they are played."""
        (run_dir / "learner.json").unlink()
        settings.evaluator.episodes, settings.evaluator.every = 5, 2
        write_config(settings, config)
        add(run_dir, 4)

    def ends_again() -> None:
        add(run_dir, 7)
        (run_dir / "learner.json").touch()

    stages = (
        lambda: None,
        (run_dir / "learner.json").touch,
        lambda: None,
        goes_on,
        lambda: add(run_dir, 6),
        ends_again,
    )
    Evaluator(run_dir, EvaluatorSettings(), stay=True).run(Stages(*stages))  # type: ignore[arg-type]
    assert [(line["policy_version"], line["drawn"]["n"]) for line in lines(run_dir)] == [(3, 4), (6, 5), (7, 5)]


def test_waiting_for_a_run_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    assert not module.wait_for(tmp_path / "config.yaml", Stages(lambda: None))  # type: ignore[arg-type]


def test_the_learner_exports_what_the_evaluator_used_until_it_is_old(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    returns(monkeypatch, {3: (1.0, 2.0)})
    evaluations = Evaluations(run_dir)
    metrics = LearnerMetrics({}, {}, others=evaluations.processes)
    series = "oatmill_process_resident_memory_bytes"
    labels = {"process": "evaluator"}
    assert metrics.registry.get_sample_value(series, labels) is None
    assert Evaluator(run_dir, EvaluatorSettings()).play_newest()
    evaluations.newest()
    assert metrics.registry.get_sample_value(series, labels) == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert (metrics.registry.get_sample_value("oatmill_process_cpu_seconds_total", labels) or 0) > 0
    monkeypatch.setattr("learner.reporting.evaluations.OLD_AFTER_S", 0.0)
    assert metrics.registry.get_sample_value(series, labels) is None
