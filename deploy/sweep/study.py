"""Runs the trials of a sweep, one run after another; SQLite holds what is known, so that a sweep can be interrupted."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.sweep.space import Parameter
from oatmill.errors import RunError, SettingsError, UserError
from oatmill.files.run_files import SUMMARY_FILE
from recipes.recipe import Recipe
from runner.continuing import has_checkpoint
from runner.folder import RUNS, folder_name, is_held, read_json
from runner.observer import Observer
from runner.operator_client import operator_client
from runner.overrides import Layer, leaves, nested
from runner.run import Run
from runner.settings import RunSettings

DATABASE = "study.db"
POINTS = 20
"""At so many points of each run's budget the pruner looks at its return."""
STARTUP_TRIALS = 4
"""Before the pruner compares, so many trials run to their end."""
SAMPLERS = ("tpe", "random", "qmc", "gp")
PRUNERS = ("median", "hyperband", "none")


@dataclass(frozen=True)
class Sweep:
    """What is searched.

    Attributes:
        recipe: the recipe, or that of an environment.
        parameters: the settings that change.
        common: the layers that all trials have.
        seeds: runs per trial, with seeds 0 to seeds - 1.
        metric: `episode_return` or `eval_return`.
        out: the folder.
    """

    recipe: Recipe
    parameters: Sequence[Parameter]
    common: Sequence[Layer]
    seeds: int
    metric: str
    out: Path

    def settings(self, values: Mapping[str, Any], seed: int) -> RunSettings:
        """The settings of one run.

        Raises:
            SettingsError: if a value is not allowed.
        """
        own = [Layer(nested(values.items())), Layer({"trainer": {"seed": seed}, "actors": {"seed": seed}})]
        evaluated = [Layer({"evaluator": {"enabled": True}})] if self.metric == "eval_return" else []
        return self.recipe.resolved([*evaluated, *self.common, *own])

    def described(self) -> dict[str, Any]:
        """What must be the same when a sweep is continued, as a user would type it."""
        common = [f"{path}={json.dumps(value)}" for layer in self.common for path, value in leaves(layer.values)]
        return {
            "recipe": self.recipe.name,
            "--param": [parameter.text for parameter in self.parameters],
            "settings": common,
            "seeds": self.seeds,
            "metric": self.metric,
        }


def make_sweep(
    recipe: Recipe, parameters: Sequence[Parameter], common: Sequence[Layer], *, seeds: int, metric: str, out: Path | None
) -> Sweep:
    """Check that all settings exist and take both ends of their ranges.

    Raises:
        UserError: if not, or two ranges are of the same setting.
    """
    folder = (out or RUNS / f"sweep-{folder_name(recipe.name)}").absolute()
    sweep = Sweep(recipe, parameters, common, seeds, metric, folder)
    paths = [parameter.path for parameter in parameters]
    if len(set(paths)) < len(paths):
        raise UserError(f"--param names a setting twice: {', '.join(paths)}")
    for end in (0, 1):
        sweep.settings({parameter.path: parameter.ends[end] for parameter in parameters}, 0)
    return sweep


def claim(folder: Path) -> None:
    """Create the folder of a sweep, or check that it is one.

    Raises:
        UserError: if it is a file, holds something else, or cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = not (folder / DATABASE).exists() and any(folder.iterdir())
    except OSError as error:
        raise UserError(f"--out {folder} cannot be created or read: {error.strerror}; choose another folder") from None
    if foreign:
        raise UserError(f"--out {folder} must be a new or empty folder, or that of a sweep, got a folder with other files")


def open_study(sweep: Sweep, *, sampler: str, pruner: str, seed: int) -> Any:
    """Create the study, or open that of an earlier command.

    Raises:
        UserError: if optuna is missing, or the folder holds another sweep.
    """
    try:
        import optuna  # noqa: PLC0415
    except ImportError:
        raise UserError("a sweep needs optuna; pip install 'oatmill[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    claim(sweep.out)
    study = optuna.create_study(
        storage=f"sqlite:///{sweep.out / DATABASE}", study_name="sweep", direction="maximize", load_if_exists=True
    )
    known, asked = study.user_attrs.get("sweep"), sweep.described()
    if known is None:
        study.set_user_attr("sweep", asked)
    else:
        for name, value in asked.items():
            if known.get(name) != value:
                was, now = (", ".join(side) or "none" if isinstance(side, list) else side for side in (known.get(name), value))
                raise UserError(
                    f"{sweep.out} holds a sweep with {name} {was}, got {now}; continue with the first, or choose another --out"
                )
    # A sampler starts anew with each command: the same numbers again would be the same trials.
    drawn = seed + len(study.trials)
    samplers: dict[str, Callable[[], Any]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=drawn),
        "random": lambda: optuna.samplers.RandomSampler(seed=drawn),
        "qmc": lambda: optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False),
        "gp": lambda: optuna.samplers.GPSampler(seed=drawn),
    }
    pruners: dict[str, Callable[[], Any]] = {
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=POINTS // 5),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=POINTS // 5, max_resource=POINTS * sweep.seeds),
        "none": optuna.pruners.NopPruner,
    }
    study.sampler, study.pruner = samplers[sampler](), pruners[pruner]()
    return study


class Pruning:
    """An observer that passes on to another one, tells the trial the run's return, and stops a run that is pruned.

    Args:
        observer: shows the run.
        trial: Optuna's trial.
        folder: the run's folder.
        budget: the run's env steps.
        before: the final returns of the trial's earlier seeds.
    """

    def __init__(self, observer: Observer, trial: Any, folder: Path, budget: int, before: Sequence[float]) -> None:
        self._observer, self._trial, self._folder = observer, trial, folder
        self._budget, self._before = budget, before
        self.pruned = False

    def __getattr__(self, name: str) -> Any:
        """Everything but `reported` is the other observer's."""
        return getattr(self._observer, name)

    def reported(self, line: Mapping[str, Any]) -> None:
        """Tell the trial the mean return over the seeds so far, at most once per point of the budget."""
        self._observer.reported(line)
        mean = (line.get("episode_return") or {}).get("mean")
        point = min(POINTS, line["env_steps"] * POINTS // self._budget) + POINTS * len(self._before)
        if mean is None or self.pruned or point in self._known():
            return
        self._trial.report(statistics.mean([*self._before, mean]), point)
        if self._trial.should_prune():
            self.pruned = True
            run = read_json(self._folder / "run.json")
            with operator_client(run["control"], None if run["keys"] is None else Path(run["keys"])) as hub:
                hub.stop()

    def _known(self) -> Mapping[int, float]:
        known: Mapping[int, float] = self._trial.storage.get_trial(self._trial._trial_id).intermediate_values  # noqa: SLF001
        return known


class Trials:
    """Runs the trials of a sweep.

    Args:
        sweep: what is searched.
        study: from `open_study`.
        observer: returns the observer of a run, by its title.
        say: called with each line of progress.
        log_level: the log level of all processes.
    """

    def __init__(
        self, sweep: Sweep, study: Any, *, observer: Callable[[str], Observer], say: Callable[[str], object], log_level: str
    ) -> None:
        self._sweep, self._study = sweep, study
        self._observer, self._say, self._log_level = observer, say, log_level

    def run(self, trials: int) -> None:
        """Run until so many trials have ended, those of earlier commands included.

        Raises:
            KeyboardInterrupt: if a run is stopped; the same command continues it.
            UserError: if a run cannot be started.
        """
        while (trial := self._next(trials)) is not None:
            # Draws what is missing: an earlier command may have been killed before it had drawn all.
            values = {p.path: p.value(trial._suggest(p.path, p.distribution())) for p in self._sweep.parameters}  # noqa: SLF001
            shown = ", ".join(f"{path.rpartition('.')[2]}={brief(value)}" for path, value in values.items())
            title = f"trial {trial.number + 1} of {trials}: {shown}"
            self._say(title)
            state, outcome = self._trial(trial, values)
            self._study.tell(trial, outcome if state == "COMPLETE" else None, state=self._state(state))
            ended = f"return {outcome:.2f}" if state == "COMPLETE" else state.lower()
            self._say(f"trial {trial.number + 1}: {ended}{self._best()}")

    @staticmethod
    def _state(name: str) -> Any:
        from optuna.trial import TrialState  # noqa: PLC0415

        return TrialState[name]

    def _best(self) -> str:
        complete = self._study.get_trials(deepcopy=False, states=(self._state("COMPLETE"),))
        return f"; best {self._study.best_value:.2f} in trial {self._study.best_trial.number + 1}" if complete else ""

    def _next(self, trials: int) -> Any:
        """The trial that an earlier command has left, or a new one; None if there are enough."""
        from optuna.trial import Trial  # noqa: PLC0415

        for left in self._study.get_trials(deepcopy=False, states=(self._state("RUNNING"),)):
            return Trial(self._study, left._trial_id)  # noqa: SLF001
        if len(self._study.get_trials(deepcopy=False)) >= trials:
            return None
        return self._study.ask()

    def _trial(self, trial: Any, values: Mapping[str, Any]) -> tuple[str, float]:
        """Run all seeds of a trial: COMPLETE, PRUNED or FAIL, and the mean return."""
        returns: list[float] = []
        for seed in range(self._sweep.seeds):
            folder = self._sweep.out / "trials" / f"trial-{trial.number}" / f"seed-{seed}"
            if is_held(folder):
                raise UserError(f"{folder} is being run by another process; wait for it, or choose another --out")
            summary = read_json(folder / SUMMARY_FILE)
            if summary.get("outcome") != "done":
                settings = self._sweep.settings(values, seed)
                title = f"trial {trial.number + 1}, seed {seed}"
                watch = Pruning(self._observer(title), trial, folder, settings.trainer.total_timesteps, returns)
                try:
                    summary = self._start(settings, folder, watch)
                except (RunError, SettingsError) as error:  # a batch size, for one, may be none that can be split
                    self._say(f"{title} failed: {error}")
                    return "FAIL", math.nan
                if watch.pruned:
                    return "PRUNED", math.nan
                if summary["outcome"] != "done":
                    raise KeyboardInterrupt
            result = summary.get(self._sweep.metric) or {}
            mean = (result.get("drawn") or {} if self._sweep.metric == "eval_return" else result).get("mean")
            if mean is None:
                self._say(f"{folder}: no episode has ended, so there is no return")
                return "FAIL", math.nan
            returns.append(mean)
        return "COMPLETE", statistics.mean(returns)

    def _start(self, settings: RunSettings, folder: Path, observer: Any) -> dict[str, Any]:
        """Run one seed, from its newest checkpoint if an earlier command has left one."""
        resume = has_checkpoint(folder)
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        run = Run(settings.copied(), recipe=self._sweep.recipe.name)
        result = run.start(run_dir=folder, resume=resume, observer=observer, log_level=self._log_level)
        return result.to_dict()


def brief(value: Any) -> str:
    """A setting's value in a line, a table or a picture."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def importances(study: Any) -> dict[str, float]:
    """How much each parameter matters, largest first; empty with too few trials."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # noqa: PLC0415

    with contextlib.suppress(ValueError, RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where all returns are the same, so are all importances
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))
    return {}
