"""A run in Python: change its settings, plan it, start it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.settings import ActorSettings, EnvSettings
from agent.settings import AgentSettings
from learner.settings import TrainerSettings
from oatmill.arguments import FLAG, OR_NONE, PATH, TEXT, check_choice, check_methods, check_types
from oatmill.process.entry import LOG_LEVELS
from oatmill.settings.base import MetricsSettings
from oatmill.settings.flat import flatten_settings
from replay.settings import ReplaySettings
from runner.settings import EvaluatorSettings, RunSettings

if TYPE_CHECKING:
    from runner.observer import Observer
    from runner.plan_report import PlanReport
    from runner.result import RunResult

RUN_TYPES = {"settings": (RunSettings,), "recipe": TEXT, "preset": TEXT + OR_NONE, "base": (RunSettings, *OR_NONE)}
START_TYPES = {"run_dir": PATH + OR_NONE, "resume": FLAG, "listen": TEXT, "insecure": FLAG, "keys": PATH + OR_NONE}
OBSERVER_METHODS = ("started", "reported", "noted", "failed", "ended")
"""The methods of `runner.observer.Observer`."""


class Run:
    """A run that has not started yet.

        run = train(num_cogs=4, mission="easy_hearts")
        run.trainer.losses.cmpo.enabled = True  # checked here
        result = run.start()

    Args:
        settings: the run's settings; they can be changed until `start`.
        recipe: name of the recipe, used for the run folder and the summary.
        preset: name of the preset, if the settings come from one.
        base: the recipe's own settings, if `settings` already differ from them.
    """

    def __init__(
        self, settings: RunSettings, *, recipe: str = "own", preset: str | None = None, base: RunSettings | None = None
    ) -> None:
        check_types(locals(), RUN_TYPES)
        self.settings = settings
        self.recipe = recipe
        self.preset = preset
        self._base = flatten_settings((base or settings).to_dict())

    def __repr__(self) -> str:
        """The recipe, the environment, the budget and the losses in one line."""
        losses = [name for name, loss in self.trainer.losses if loss.enabled]
        preset = f", preset {self.preset}" if self.preset else ""
        return (
            f"<Run {self.recipe}{preset}: {self.environment}, {self.trainer.total_timesteps:,} env steps, "
            f"{self.actors.count} actors x {self.actors.envs_per_actor} environments, losses {', '.join(losses)}>"
        )

    def _repr_html_(self) -> str:
        """The plan, and the settings that differ from the recipe, for notebooks."""
        from runner.notebook import page, shown, table  # noqa: PLC0415  (only notebooks need it)

        changed = [(path, shown(ours), shown(theirs)) for path, ours, theirs in self.changed_settings()]
        return page(
            f"Run {self.recipe}{f', preset {self.preset}' if self.preset else ''}",
            table("Plan", (), plan_rows(self)),
            table("Settings that differ from the recipe", ("setting", "this run", "recipe"), changed),
        )

    def changed_settings(self) -> Iterator[tuple[str, Any, Any]]:
        """The settings that differ from the recipe's, by dotted path: path, this run's value, the recipe's value."""
        ours = flatten_settings(self.settings.to_dict())
        for path in sorted(ours.keys() | self._base.keys()):
            if ours.get(path) != self._base.get(path):
                yield path, ours.get(path), self._base.get(path)

    @property
    def environment(self) -> str:
        """The environment's id, factory or kind, as readable text."""
        return str(getattr(self.env, "id", None) or getattr(self.env, "factory", None) or self.env.kind)

    @property
    def env(self) -> EnvSettings:
        """The environment's settings."""
        return self.settings.env

    @property
    def agent(self) -> AgentSettings:
        """The network's settings."""
        return self.settings.agent

    @property
    def actors(self) -> ActorSettings:
        """The actors' settings."""
        return self.settings.actors

    @property
    def replay(self) -> ReplaySettings:
        """The replay server's settings."""
        return self.settings.replay

    @property
    def trainer(self) -> TrainerSettings:
        """The learner's settings, including the losses."""
        return self.settings.trainer

    @property
    def metrics(self) -> MetricsSettings:
        """Settings for metrics and reports."""
        return self.settings.metrics

    @property
    def evaluator(self) -> EvaluatorSettings:
        """The evaluator's settings."""
        return self.settings.evaluator

    def plan(self) -> PlanReport:
        """Check all settings and report what the run would do, without starting it.

        Raises:
            UserError: if the settings do not fit together, or the environment cannot be built.
        """
        from runner.plan_report import report_plan  # noqa: PLC0415  (loads torch)

        return report_plan(self.settings)

    def start(
        self,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        listen: str = "ipc",
        insecure: bool = False,
        observer: Observer | None = None,
        log_level: str = "info",
        keys: str | Path | None = None,
    ) -> RunResult:
        """Train until the budget is spent, with all processes on this machine.

        Args:
            run_dir: run folder, new or empty; None creates one below `runs`.
            resume: continue a run from its newest checkpoint: the run of `run_dir`, or the newest run.
            listen: `ipc`, or `tcp://HOST[:PORT]` so that actors on other machines can join.
            insecure: listen on the network without keys.
            observer: object that receives progress; None writes lines to standard error.
            log_level: log level of all processes.
            keys: folder of keys, created by `oatmill keygen`; all processes that connect must then
                have a key.

        Returns:
            The fields of summary.json.

        Raises:
            UserError: if the run cannot be started; the folder that was created for it is removed.
            RunError: if the run started and failed; its folder is kept, with a summary.
        """
        check_start(locals())
        from runner.local.train import Options, train_here  # noqa: PLC0415  (importing a recipe stays fast)

        self.settings.freeze()
        options = Options(
            run_dir=None if run_dir is None else Path(run_dir),
            resume=resume,
            listen=listen,
            insecure=insecure,
            observer=observer,
            log_level=log_level,
            keys=None if keys is None else Path(keys).absolute(),
        )
        return train_here(self.settings, recipe=self.recipe, preset=self.preset, options=options)


def check_start(given: Mapping[str, Any], more: Mapping[str, tuple[type, ...]] | None = None) -> None:
    """Raise a UserError of one line if an argument of `Run.start`, by name, or one of `more` has a wrong type."""
    check_types(given, {**(more or {}), **START_TYPES})
    check_choice("log_level", given["log_level"], LOG_LEVELS)
    if given["observer"] is not None:
        check_methods("observer", given["observer"], OBSERVER_METHODS, "runner.observer.PlainObserver")


def plan_rows(run: Run) -> Iterator[tuple[str, object]]:
    """What the settings come to. The environment is not built: this has to be fast, and must not fail."""
    trainer, actors = run.trainer, run.actors
    yield "environment", run.environment
    yield "budget", f"{trainer.total_timesteps:,} env steps"
    yield "actors", f"{actors.count} x {actors.envs_per_actor} environments, unrolls of {actors.unroll_length} steps"
    yield "batch", f"{trainer.batch_size} trajectories, {trainer.epochs} epochs x {trainer.minibatches} minibatches"
    yield "losses", ", ".join([*(name for name, loss in trainer.losses if loss.enabled), *trainer.extra_losses])
    yield "seed", trainer.seed
