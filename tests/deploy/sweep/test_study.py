"""A sweep: trials, seeds, pruning, Ctrl-C and continuing, and what it writes. Runs are faked but for their files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.sweep import report
from deploy.sweep import study as module
from deploy.sweep.report import best_so_far, write_results
from deploy.sweep.space import parse_parameter
from deploy.sweep.study import POINTS, Pruning, Sweep, Trials, make_sweep, open_study
from oatmill.errors import RunError, UserError
from oatmill.settings import yaml_format
from recipes.registry import find_recipe
from recipes.resolve import recipe_or_environment
from runner.overrides import Layer
from runner.settings import RunSettings, prepared

pytest.importorskip("optuna", reason="needs oatmill[sweep]")

RATE = "trainer.optimizer.learning_rate=1e-4..1e-2:log"
Start = Callable[[RunSettings, Path, Any], dict[str, Any]]


def a_sweep(folder: Path, *, params: tuple[str, ...] = (RATE, "trainer.epochs=1..4"), seeds: int = 1, **settings: Any) -> Sweep:
    common = [Layer({"trainer": {"total_timesteps": 1000, **settings}})]
    return make_sweep(
        find_recipe("cartpole"),
        [parse_parameter(text) for text in params],
        common,
        seeds=seeds,
        metric="episode_return",
        out=folder,
    )


def run(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, start: Start, trials: int, pruner: str = "none"
) -> tuple[Any, list[str]]:
    """Run a sweep whose runs are `start`; a run that ends leaves its summary."""

    def started(_self: Trials, settings: RunSettings, folder: Path, observer: Any) -> dict[str, Any]:
        summary = start(settings, folder, observer)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(summary))
        return summary

    monkeypatch.setattr(Trials, "_start", started)
    said: list[str] = []
    study = open_study(sweep, sampler="random", pruner=pruner, seed=0)
    Trials(sweep, study, observer=silent, say=said.append, log_level="info").run(trials)
    return study, said


class Silent:
    def reported(self, line: Any) -> None:
        pass


def silent(_title: str) -> Any:
    return Silent()


def done(mean: float | None, outcome: str = "done") -> dict[str, Any]:
    return {"outcome": outcome, "episode_return": {"mean": mean, "std": 0.0, "n": 100}}


def test_a_trial_is_the_mean_over_its_seeds_and_the_best_is_a_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, int, int]] = []

    def start(settings: RunSettings, _folder: Path, _observer: Any) -> dict[str, Any]:
        trainer = settings.trainer
        seen.append((trainer.optimizer.learning_rate, trainer.seed, settings.actors.seed))
        return done(1000 * trainer.optimizer.learning_rate + trainer.seed)

    sweep = a_sweep(tmp_path, seeds=2)
    study, said = run(sweep, monkeypatch, start, 5)
    rates = [rate for rate, seed, _ in seen if seed == 0]
    assert [(seed, actors) for _, seed, actors in seen] == [(0, 0), (1, 1)] * 5
    assert [trial.value for trial in study.trials] == pytest.approx([1000 * rate + 0.5 for rate in rates])
    found = write_results(sweep, study)
    assert found is not None
    assert found["values"]["trainer.optimizer.learning_rate"] == max(rates)
    best = yaml_format.load((tmp_path / "best.yaml").read_text())
    assert best["trainer"]["optimizer"]["learning_rate"] == max(rates)
    assert best["trainer"]["total_timesteps"] == 1000, "what all trials have in common belongs to it"
    page = (tmp_path / "report.html").read_text()
    assert "Parallel coordinates" in page
    assert "Importance" in page
    assert page.count("<tr>") == 1 + 5
    assert said[0].startswith("trial 1 of 5: learning_rate=")


def test_after_ctrl_c_the_same_trial_goes_on_and_finished_seeds_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, float]] = []
    interrupt = True

    def start(settings: RunSettings, folder: Path, _observer: Any) -> dict[str, Any]:
        begun.append((str(folder.relative_to(tmp_path / "trials")), settings.trainer.optimizer.learning_rate))
        return done(1.0, "stopped" if interrupt and len(begun) == 4 else "done")

    sweep = a_sweep(tmp_path, seeds=2)
    with pytest.raises(KeyboardInterrupt):
        run(sweep, monkeypatch, start, 3)
    interrupt = False
    study, _ = run(sweep, monkeypatch, start, 3)
    folders = [folder for folder, _ in begun]
    assert folders == [
        *("trial-0/seed-0", "trial-0/seed-1", "trial-1/seed-0", "trial-1/seed-1"),
        *("trial-1/seed-1", "trial-2/seed-0", "trial-2/seed-1"),
    ]
    assert begun[3][1] == begun[4][1] == begun[2][1], "with the same settings"
    assert len({rate for _, rate in begun}) == 3, "a continued sweep draws new settings"
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    assert run(sweep, monkeypatch, start, 3)[1] == [], "there is nothing left to do"


def test_a_trial_that_was_killed_before_all_its_settings_were_drawn_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = a_sweep(tmp_path)
    rate = (
        open_study(sweep, sampler="random", pruner="none", seed=0)
        .ask()
        .suggest_float(RATE.partition("=")[0], 1e-4, 1e-2, log=True)
    )
    study, _ = run(sweep, monkeypatch, lambda *_: done(1.0), 2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert study.trials[0].params["trainer.optimizer.learning_rate"] == rate, "what was drawn is kept"
    assert "trainer.epochs" in study.trials[0].params


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[tuple[bool, bool]] = []

    class Result:
        def to_dict(self) -> dict[str, Any]:
            return done(1.0)

    class FakeRun:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def start(self, *, run_dir: Path, resume: bool, **_: Any) -> Result:
            starts.append((resume, run_dir.exists()))
            return Result()

    monkeypatch.setattr(module, "Run", FakeRun)
    sweep = a_sweep(tmp_path)
    open_study(sweep, sampler="tpe", pruner="none", seed=0)
    left = tmp_path / "trials" / "trial-0" / "seed-0"
    (left / "checkpoints" / "latest").mkdir(parents=True)
    without = tmp_path / "trials" / "trial-1" / "seed-0"
    (without / "checkpoints").mkdir(parents=True)  # was killed before its first checkpoint
    study = open_study(sweep, sampler="tpe", pruner="none", seed=0)
    Trials(sweep, study, observer=silent, say=lambda _text: None, log_level="info").run(2)
    assert starts == [(True, True), (False, False)]


def test_a_bad_curve_is_pruned_and_its_run_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []

    class Hub:
        def __enter__(self) -> Hub:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def stop(self) -> None:
            stopped.append("stop")

    def client(address: str, _keys: Path | None) -> Hub:
        stopped.append(address)
        return Hub()

    monkeypatch.setattr(module, "operator_client", client)

    def start(_settings: RunSettings, folder: Path, observer: Pruning) -> dict[str, Any]:
        folder.mkdir(parents=True)
        (folder / "run.json").write_text('{"control": "ipc://here", "keys": null}')
        good = not folder.parent.name.endswith("-5")
        for step in range(50, 1001, 50):
            observer.reported({"env_steps": step, "episode_return": {"mean": step / 10 if good else 1.0}})
            if observer.pruned:
                assert step < 500
                return done(1.0, "stopped")
        return done(100.0)

    study, said = run(a_sweep(tmp_path), monkeypatch, start, 7, pruner="median")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE"]
    assert stopped == ["ipc://here", "stop"]
    assert max(study.trials[0].intermediate_values) == POINTS
    assert "trial 6: pruned; best 100.00 in trial 1" in said


def test_a_pruned_trial_is_not_the_best_whatever_its_return_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.trial import TrialState

    sweep = a_sweep(tmp_path)
    study, _ = run(sweep, monkeypatch, lambda *_: done(10.0), 2)
    ended = study.ask({parameter.path: parameter.distribution() for parameter in sweep.parameters})
    ended.report(99.0, 1)
    study.tell(ended, None, state=TrialState.PRUNED)
    found = write_results(sweep, study)
    assert found is not None
    assert (found["trial"], found["return"], found["trials"]) == (1, 10.0, 3)
    rows = re.findall(r"<tr><td>(\d)</td><td>([\d.]+)</td><td>(\w+)</td>", (tmp_path / "report.html").read_text())
    assert rows == [("1", "10.00", "complete"), ("2", "10.00", "complete"), ("3", "99.00", "pruned")]


def test_a_sweep_begins_only_in_a_folder_of_its_own(tmp_path: Path) -> None:
    run_folder, file = tmp_path / "run", tmp_path / "file"
    run_folder.mkdir()
    (run_folder / "config.yaml").touch()
    file.touch()
    for folder, expected in (
        (run_folder, "must be a new or empty folder, or that of a sweep, got a folder with other files"),
        (file, "cannot be created or read: File exists"),
        (file / "below", "cannot be created or read: Not a directory"),
    ):
        with pytest.raises(UserError, match=f"^--out {folder} {expected}"):
            open_study(a_sweep(folder), sampler="random", pruner="none", seed=0)
    assert list(run_folder.iterdir()) == [run_folder / "config.yaml"]
    for _ in range(2):  # begun, and continued
        open_study(a_sweep(tmp_path / "new"), sampler="random", pruner="none", seed=0)


def test_the_line_of_the_best_return_ends_at_the_last_trial_though_that_was_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.trial import TrialState

    returns = iter([3.0, 10.0, 7.0])
    sweep = a_sweep(tmp_path)
    study, _ = run(sweep, monkeypatch, lambda *_: done(next(returns)), 3)
    assert best_so_far(study.trials, last=3)[1][:3] == [3.0, 10.0, 10.0]
    for _ in range(2):
        study.tell(study.ask(), None, state=TrialState.PRUNED)
    drawn: list[Any] = []

    def keep(figure: Any) -> bytes:
        drawn.append(figure)
        return b""

    monkeypatch.setattr(report, "png", keep)
    write_results(sweep, study)
    (line,) = [line for line in drawn[0].axes[0].lines if line.get_label() == "best so far"]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2, 3, 5], [3.0, 10.0, 10.0, 10.0])


def test_a_run_that_fails_costs_its_trial_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_settings: RunSettings, folder: Path, _observer: Any) -> dict[str, Any]:
        if "trial-0" in str(folder):
            raise RunError("the environment failed")
        return done(None if "trial-1" in str(folder) else 2.0)

    study, said = run(a_sweep(tmp_path), monkeypatch, start, 3)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "COMPLETE"]
    assert "trial 1, seed 0 failed: the environment failed" in said


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (("trainer.learning_rates=1..2",), "trainer.learning_rates is not a setting"),
        (("trainer.epochs=0..4",), "trainer.epochs must be a whole number of at least 1, got 0"),
        ((RATE, RATE), "names a setting twice"),
    ],
)
def test_a_range_that_a_setting_does_not_take_is_refused_before_anything_runs(
    tmp_path: Path, params: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        a_sweep(tmp_path, params=params)


def test_another_sweeps_folder_is_refused(tmp_path: Path) -> None:
    open_study(a_sweep(tmp_path), sampler="tpe", pruner="none", seed=0)
    open_study(a_sweep(tmp_path), sampler="random", pruner="median", seed=0)
    with pytest.raises(UserError, match="holds a sweep with seeds 1, got 2; continue with the first, or choose another --out"):
        open_study(a_sweep(tmp_path, seeds=2), sampler="tpe", pruner="none", seed=0)
    with pytest.raises(UserError) as refusal:
        open_study(a_sweep(tmp_path, params=(RATE,)), sampler="tpe", pruner="none", seed=0)
    asked = "trainer.optimizer.learning_rate=0.0001..0.01:log"
    was = f"{asked}, trainer.epochs=1..4"
    assert str(refusal.value) == (
        f"{tmp_path} holds a sweep with --param {was}, got {asked}; continue with the first, or choose another --out"
    )


def test_a_value_that_a_run_refuses_costs_its_trial_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(settings: RunSettings, _folder: Path, _observer: Any) -> dict[str, Any]:
        prepared(settings)
        return done(1.0)

    study, said = run(a_sweep(tmp_path, params=("trainer.batch_size=[32, 33]",)), monkeypatch, start, 6)
    assert {trial.state.name for trial in study.trials} == {"FAIL", "COMPLETE"}
    assert any("trainer.batch_size must be a multiple of" in line for line in said)


def test_a_sweep_of_an_environment_says_how_to_train_on_it(tmp_path: Path) -> None:
    common = [Layer({"trainer": {"total_timesteps": 1000}})]
    sweep = make_sweep(
        recipe_or_environment(None, "CartPole-v1"),
        [parse_parameter(RATE)],
        common,
        seeds=1,
        metric="episode_return",
        out=tmp_path,
    )
    settings = sweep.settings({"trainer.optimizer.learning_rate": 0.001}, 0)
    assert (settings.env.kind, settings.agent.normalize_observations) == ("gymnasium", True)
    found = {"return": 1.0, "trial": 0, "trials": 1, "values": {}}
    line = report.lines_of(found, tmp_path, sweep.recipe.argument)[-1]
    assert line == f"train with it   oatmill train --env CartPole-v1 --config {tmp_path / 'best.yaml'}"
