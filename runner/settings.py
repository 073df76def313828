"""All settings of a run in one model, and config.yaml, which stores them (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from actors.settings import ActorSettings, EnvSettings
from agent.settings import AgentSettings
from learner.budget import batch_unit, fit_batch, least_batch
from learner.settings import TrainerSettings
from oatmill.errors import SettingsError
from oatmill.files.atomic import write_file
from oatmill.settings import yaml_format
from oatmill.settings.base import MetricsSettings, Settings
from oatmill.settings.complaints import describe_error, show
from replay.settings import ReplaySettings


class EvaluatorSettings(Settings):
    """The evaluator, a process that plays the run's checkpoints with fixed seeds while it trains."""

    enabled: bool = False
    """Whether `oatmill train` starts an evaluator. If true, the evaluator selects `checkpoints/best`."""
    every: int = Field(default=1, ge=1)
    """Play a checkpoint if it is at least this many policy versions newer than the one played before. The newest
    checkpoint is played first. `trainer.checkpoint_every` sets how often a checkpoint is saved."""
    episodes: int = Field(default=20, ge=1)
    """Episodes with the most likely actions, and as many with sampled actions."""
    seed: int = Field(default=1000, ge=0)
    """Seed of environment and actions, the same for every checkpoint."""
    best_by: Literal["deterministic", "drawn"] = "drawn"
    """Which of the two mean returns selects `checkpoints/best`."""
    video_every: int = Field(default=0, ge=0)
    """Write a video of one episode at the first evaluation and then once in this many evaluations: a GIF in `videos` of
    the run folder, which TensorBoard and Weights & Biases also show. Needs `oatmill[video]`. 0 means no videos."""
    video_frames: int = Field(default=300, ge=1, le=3000)
    """The maximum number of frames of a video; the rest of a longer episode is left out."""


class RunSettings(Settings):
    """The settings of a run. Each role reads the groups that it needs from config.yaml."""

    env: EnvSettings
    agent: AgentSettings = Field(default_factory=AgentSettings)
    actors: ActorSettings = Field(default_factory=ActorSettings)
    replay: ReplaySettings = Field(default_factory=ReplaySettings)
    trainer: TrainerSettings = Field(default_factory=TrainerSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    evaluator: EvaluatorSettings = Field(default_factory=EvaluatorSettings)

    @model_validator(mode="after")
    def _check(self) -> RunSettings:
        if self.agent.burn_in >= self.actors.unroll_length:
            raise ValueError(
                f"agent.burn_in must be below actors.unroll_length={self.actors.unroll_length}, so that steps are left to "
                f"train on, got {self.agent.burn_in}"
            )
        if self.actors.synchronous and (self.replay.queue_batches > 1 or self.actors.when_full != "block"):
            raise ValueError(
                "actors.synchronous=true needs replay.queue_batches=1 and actors.when_full=block, because data that waits is "
                f"older than the newest policy; got {self.replay.queue_batches:g} and {self.actors.when_full}"
            )
        return self

    @staticmethod
    def of(values: Mapping[str, Any]) -> RunSettings:
        """Create settings from nested plain values.

        Raises:
            SettingsError: one line with the setting, its requirement and the value.
        """
        if not isinstance(values, Mapping):
            raise SettingsError(f'settings must be a mapping such as {{"env": {{"id": "CartPole-v1"}}}}, got {show(values)}')
        try:
            return RunSettings.model_validate(dict(values))
        except ValidationError as error:
            raise SettingsError(describe_error(RunSettings, error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as in config.yaml."""
        return self.model_dump(mode="json")

    def copied(self) -> RunSettings:
        """The same settings, checked as a whole; they can be changed.

        Raises:
            SettingsError: if settings that were assigned one by one do not fit together.
        """
        copy = RunSettings.of(self.explicit())
        if self.trainer.batch_size_is_exact:
            copy.trainer.keep_batch_size()
        return copy

    def explicit(self) -> dict[str, Any]:
        """Only the values that were set, so that merging does not see defaults as conflicts."""
        values = _explicit(self)
        values["env"]["kind"] = self.env.kind
        return values


def _explicit(settings: Settings) -> dict[str, Any]:
    # pydantic's exclude_unset would drop values that were assigned inside a group of defaults.
    plain = settings.model_dump(mode="json")
    values = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            values[name] = _explicit(value)
        elif name in settings.model_fields_set:
            values[name] = plain[name]
    return values


def prepared(settings: RunSettings) -> tuple[RunSettings, list[str]]:
    """Check the settings as a whole, and fit a batch size that the user has not set to budget, minibatches and learner ranks.

    Args:
        settings: settings of a recipe with all overrides and later assignments.

    Returns:
        The settings that the run starts with, and one line per setting that was changed.

    Raises:
        SettingsError: if settings that were assigned one by one do not fit together, or the user's batch size cannot be split.
    """
    fitted = settings.copied()
    trainer, unroll_length = fitted.trainer, fitted.actors.unroll_length
    trainer.gamma = trainer.discount
    # `runs/latest` is another folder as soon as this run has one.
    if trainer.init_from is not None:
        trainer.init_from = str(Path(trainer.init_from).expanduser().resolve())
    if trainer.teacher.policy is not None:
        trainer.teacher.policy = str(Path(trainer.teacher.policy).expanduser().resolve())
    wanted, batch, unit = trainer.batch_size, fit_batch(trainer, unroll_length), batch_unit(trainer)
    if trainer.batch_size_is_exact:
        batch = wanted // unit * unit
        check_minibatches(trainer, batch, unroll_length)
    if batch == wanted:
        return fitted, []
    factors = "trainer.minibatches x trainer.learners" if trainer.shuffle == "trajectories" else "trainer.learners"
    if trainer.batch_size_is_exact:
        nearest = f"the nearest are {batch} and {batch + unit}" if batch else f"the nearest is {unit}"
        raise SettingsError(f"trainer.batch_size must be a multiple of {factors} = {unit}, got {wanted}; {nearest}")
    trainer.batch_size = batch
    return fitted, [
        f"trainer.batch_size is {batch} instead of {wanted} trajectories of {unroll_length} steps: it must be a multiple of "
        f"{factors} = {unit}, have a step for every minibatch, and be small enough for 20 batches in "
        f"{trainer.total_timesteps} env steps if possible"
    ]


def check_minibatches(trainer: TrainerSettings, batch: int, unroll_length: int) -> None:
    """Raise a SettingsError if a batch of so many trajectories has too few steps for `trainer.shuffle=steps`."""
    least = least_batch(trainer, unroll_length)
    if trainer.shuffle == "steps" and 0 < batch < least:
        raise SettingsError(
            "trainer.minibatches must be at most the steps of one rank's share of a batch = "
            f"{batch // trainer.learners * unroll_length}, got {trainer.minibatches}; set it to that, or "
            f"trainer.batch_size to {least} or more"
        )


def write_config(settings: RunSettings, path: Path) -> None:
    """Write settings as YAML, readable by the owner only, as `env.kwargs` may contain secrets."""
    write_file(path, yaml_format.dump(settings.to_dict()))


def read_config(path: Path) -> RunSettings:
    """Read a file that `write_config` wrote.

    Raises:
        SettingsError: if the file cannot be read or does not hold a run's settings.
    """
    try:
        return RunSettings.of(read_mapping(path))
    except SettingsError as error:
        raise SettingsError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of nested settings, without validating them.

    Raises:
        SettingsError: if the file cannot be read or does not hold a mapping.
    """
    try:
        content = yaml_format.load(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}; expected a YAML file of settings") from None
    except ValueError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict | None):
        raise SettingsError(
            f"{path} must contain settings by name, such as trainer: {{gamma: 0.99}}, got {type(content).__name__}"
        )
    return content or {}
