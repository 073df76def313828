"""Starting a run from Python: settings that can be changed until it starts, and what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actors.settings import ActorSettings, EnvSettings
from agent.settings import AgentSettings
from learner.settings import TrainerSettings
from oatmill.settings.base import MetricsSettings
from replay.settings import ReplaySettings
from runner.settings import RunSettings

if TYPE_CHECKING:
    from runner.observer import Observer
    from runner.plan_report import PlanReport
    from runner.result import RunResult


class Run:
    """A run that has not started yet.

        run = train(num_cogs=4, mission="easy_hearts")
        run.trainer.losses.cmpo.enabled = True  # checked here
        result = run.start()

    Args:
        settings: its settings; they can be changed until `start`.
        recipe: the recipe's name, for the run folder and the summary.
        preset: the preset's name, if the settings come from one.
    """

    def __init__(self, settings: RunSettings, *, recipe: str = "own", preset: str | None = None) -> None:
        self.settings = settings
        self.recipe = recipe
        self.preset = preset

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
        """The queue's settings."""
        return self.settings.replay

    @property
    def trainer(self) -> TrainerSettings:
        """The learner's settings, the losses among them."""
        return self.settings.trainer

    @property
    def metrics(self) -> MetricsSettings:
        """Where numbers go."""
        return self.settings.metrics

    def plan(self) -> PlanReport:
        """Check everything and say what the run would do; starts nothing.

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
        """Train to the end of the budget, with a replay server, actors and a learner as processes of this machine.

        Args:
            run_dir: the run's folder, new or empty; None makes one below `runs`.
            resume: go on with an ended run's folder from its newest checkpoint; without `run_dir` the newest run's.
            listen: `ipc`, or `tcp://HOST[:PORT]` so that actors of other machines can join.
            insecure: listen beyond this machine although nobody is asked for a key.
            observer: is told of progress; None writes lines to standard error.
            log_level: of all processes' logs.
            keys: the folder that `oatmill keygen` has made; everybody who connects is asked for a key.

        Returns:
            The fields of summary.json.

        Raises:
            UserError: if the run cannot be started as asked; what was made for it is gone.
            RunError: if it has started and failed; its folder stays, with a summary.
        """
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
