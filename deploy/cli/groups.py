"""Groups of options that several commands take as one object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from deploy.cli.options import (
    ActorsOption,
    Assignments,
    CheckpointArgument,
    ConfigOption,
    EnvOption,
    HubOption,
    KeysOption,
    LearnersOption,
    LogLevel,
    LogLevelOption,
    OptionalRecipe,
    PresetOption,
    RecipeOrNone,
    RolePreset,
    RunArgument,
    RunDirOption,
    SeedOption,
    one_folder,
)

if TYPE_CHECKING:
    from runner.operator_client import OperatorClient
    from runner.run import Run


LOG_LEVEL = inspect.Parameter("log_level", inspect.Parameter.KEYWORD_ONLY, default=LogLevel.info, annotation=LogLevelOption)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Prepare a command for Typer, which reads a command's options from its signature.

    A parameter whose type is a dataclass is replaced by that class's fields, each an option, and the
    command gets the object. `--log-level` is added unless the command has it: its callback acts.
    """
    groups: dict[str, Any] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            options += options_of(groups[parameter.name])
        else:
            options.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    added = all(option.name != "log_level" for option in options)
    if added:
        options.append(LOG_LEVEL)

    @functools.wraps(command)
    def call(**given: Any) -> None:
        if added:
            del given["log_level"]
        for name, group in groups.items():
            given[name] = group(**{option.name: given.pop(option.name) for option in options_of(group)})
        command(**given)

    call.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    call.__annotations__ = {option.name: option.annotation for option in options}
    return call


@functools.cache
def options_of(group: Any) -> list[inspect.Parameter]:
    """The fields of a group."""
    hints = get_type_hints(group, include_extras=True)
    fields = inspect.signature(group).parameters.values()
    return [field.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[field.name]) for field in fields]


@dataclass(eq=False)
class OneRun:
    """A run, by its folder."""

    run: RunArgument = None
    run_dir: RunDirOption = None

    @property
    def folder(self) -> Path | None:
        """The folder; None if it is left out.

        Raises:
            UserError: if it is given twice.
        """
        return one_folder(self.run, self.run_dir)


@dataclass(eq=False)
class OneCheckpoint:
    """A checkpoint, by its folder or by its run's."""

    checkpoint: CheckpointArgument = None
    run_dir: RunDirOption = None

    @property
    def folder(self) -> Path:
        """The folder; that of the newest run if it is left out.

        Raises:
            UserError: if it is given twice, or left out and there is no run.
        """
        from runner.folder import find_run  # noqa: PLC0415

        return one_folder(self.checkpoint, self.run_dir) or find_run(None)


class Hub(NamedTuple):
    """The hub that a command talks to.

    Attributes:
        address: its control address.
        keys: the folder of keys; None for a run without keys.
        folder: the run folder; None if the hub was given by its address.
        running: the content of run.json; empty without a folder.
    """

    address: str
    keys: Path | None
    folder: Path | None
    running: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The run folder or the address, for messages."""
        return str(self.folder or self.address)

    def client(self) -> AbstractContextManager[OperatorClient]:
        """A client of the hub, closed at the end of the `with` block."""
        from runner.operator_client import operator_client  # noqa: PLC0415

        return operator_client(self.address, self.keys)


@dataclass(eq=False)
class ActiveRun(OneRun):
    """An active run, by its folder or by the address of its hub."""

    address: HubOption = None
    keys: KeysOption = None

    def hub(self) -> Hub:
        """The run's hub. A folder takes precedence over an address.

        Raises:
            UserError: if the folder is given twice, or is not that of an active run.
        """
        from runner.folder import find_run, hub_of, read_run  # noqa: PLC0415

        if self.folder is None and self.address is not None:
            return Hub(self.address, self.keys, None, {})
        folder = find_run(self.folder)
        running = read_run(folder)
        return Hub(*hub_of(folder, running), folder, running)


@dataclass(eq=False)
class TrainingOptions:
    """A recipe or an environment, and what changes its settings."""

    recipe: RecipeOrNone = None
    assignments: Assignments = None
    env: EnvOption = None
    actors: ActorsOption = None
    learners: LearnersOption = None
    preset: PresetOption = None
    config: ConfigOption = None
    seed: SeedOption = None

    def resolve(self, *, resumed: Path | None = None, trust: bool = False) -> Run:
        """The run; see `recipes.resolve.resolve_run`."""
        from recipes.resolve import resolve_run  # noqa: PLC0415

        flags = {"actors.count": self.actors, "trainer.learners": self.learners}
        flags |= {"trainer.seed": self.seed, "actors.seed": self.seed}
        return resolve_run(
            self.recipe,
            self.assignments,
            env=self.env,
            preset=self.preset,
            config=self.config,
            flags=flags,
            resumed=resumed,
            trust=trust,
        )


@dataclass(eq=False)
class RoleOptions:
    """The settings and keys of one role, and its log level.

    Without a recipe, `config` must have all settings, as a run's config.yaml has.
    """

    recipe: OptionalRecipe = None
    assignments: Assignments = None
    keys: KeysOption = None
    preset: RolePreset = None
    config: ConfigOption = None
    log_level: LogLevelOption = LogLevel.info
