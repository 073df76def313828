"""Runs a recipe's arms over seeds, one run after another, each in its own folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from oatmill.errors import RunError, UserError
from oatmill.files.run_files import CONFIG_FILE, SUMMARY_FILE
from recipes.recipe import Recipe
from runner.folder import RUNS, folder_name, is_held, read_json
from runner.observer import Observer
from runner.overrides import Layer, leaves
from runner.run import Run
from runner.settings import RunSettings, prepared, read_config


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        arm: its name.
        seed: of trainer and actors.
        settings: that it runs with.
        folder: the run's.
    """

    arm: str
    seed: int
    settings: RunSettings
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether it has run to the end of its budget."""
        return read_json(self.folder / SUMMARY_FILE).get("outcome") == "done"


@dataclass(frozen=True)
class Comparison:
    """Arms and seeds of one recipe.

    Attributes:
        recipe: its name.
        arms: what each arm changes, by name; the others are compared with the first, or with
            `baseline`.
        cells: all runs; a seed's arms come one after another, so that what the machine does
            meanwhile meets all arms alike.
        out: the folder that holds the runs and the report.
    """

    recipe: str
    arms: Mapping[str, Mapping[str, Any]]
    cells: Sequence[Cell]
    out: Path

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        return "baseline" if "baseline" in self.arms else next(iter(self.arms))

    def of_arm(self, arm: str) -> list[Cell]:
        """An arm's runs by seed."""
        return [cell for cell in self.cells if cell.arm == arm]


class Watcher(Protocol):
    """Receives a comparison's progress."""

    def begins(self, cell: Cell, number: int, total: int) -> Observer:
        """Called when a run begins; returns its observer."""
        ...

    def kept(self, cell: Cell, number: int, total: int) -> None:
        """Called for a run that was finished before."""
        ...

    def failed(self, cell: Cell, message: str) -> None:
        """Called when a run has failed; the comparison continues."""
        ...


def make_comparison(
    recipe: Recipe, arms: Mapping[str, Mapping[str, Any]], *, seeds: int, common: Sequence[Layer], out: Path | None
) -> Comparison:
    """Resolve every run's settings.

    Args:
        recipe: the recipe, or that of an environment.
        arms: what each changes; an arm's settings win over the common ones.
        seeds: how many; 0 to seeds - 1.
        common: the layers that all arms have.
        out: None takes `runs/compare-RECIPE`, so that the same command finds its runs again.

    Raises:
        UserError: if settings are wrong, or a folder holds a run with other ones.
    """
    folder = (out or RUNS / f"compare-{folder_name(recipe.name)}").absolute()
    cells = []
    for seed in range(seeds):
        for arm, values in arms.items():
            own = [Layer(dict(values)), Layer({"trainer": {"seed": seed}, "actors": {"seed": seed}})]
            layers = [*common, *own]
            cells.append(Cell(arm, seed, recipe.resolved(layers), folder / "runs" / arm / f"seed-{seed}"))
    comparison = Comparison(recipe.name, arms, cells, folder)
    check_folders(comparison)
    return comparison


def check_folders(comparison: Comparison) -> None:
    """Raise UserError if a folder is in use, or holds a run that was run with other settings."""
    for cell in comparison.cells:
        if is_held(cell.folder):
            raise UserError(f"{cell.folder} is being run by another process; wait for it, or choose another --out")
        if cell.folder.exists() and not (cell.folder / CONFIG_FILE).exists() and any(cell.folder.iterdir()):
            raise UserError(f"{cell.folder} contains something that is not a run; choose another --out")
        if cell.finished:
            check_same_settings(cell)


def check_same_settings(cell: Cell) -> None:
    """Raise UserError if a finished run's settings are not what is asked for now; names the first that differs."""
    ran = dict(leaves(read_config(cell.folder / CONFIG_FILE).to_dict()))
    asked = dict(leaves(prepared(cell.settings)[0].to_dict()))
    if (ran.get("agent.encoder"), asked.get("agent.encoder")) == ("auto_cpu", "auto"):
        asked["agent.encoder"] = "auto_cpu"  # what a run makes of it on a CPU
    for path in sorted(ran.keys() | asked.keys()):
        if ran.get(path) != asked.get(path):
            raise UserError(
                f"{cell.folder} was run with {path}={ran.get(path)}, and now {asked.get(path)} is asked for; choose another "
                "--out, or take that folder away to run it again"
            )


def check_plans(comparison: Comparison) -> None:
    """Make each arm's plan, so that what cannot run is refused before hours of other runs.

    Raises:
        UserError: if settings do not fit together, or the environment cannot be built; names the arm.
    """
    for arm in comparison.arms:
        try:
            Run(comparison.of_arm(arm)[0].settings).plan()
        except UserError as error:
            raise UserError(f"arm {arm}: {error}") from error


def run_cells(comparison: Comparison, watcher: Watcher, *, log_level: str) -> list[str]:
    """Execute all unfinished runs one after another, so that they do not compete for the machine.

    Args:
        comparison: the comparison.
        watcher: receives the progress.
        log_level: the log level of all processes.

    Returns:
        A line for each run that failed.

    Raises:
        KeyboardInterrupt: if a run is stopped; finished runs are kept.
        UserError: if a run cannot be started.
    """
    failures = []
    total = len(comparison.cells)
    for number, cell in enumerate(comparison.cells, 1):
        if cell.finished:
            watcher.kept(cell, number, total)
            continue
        # An interrupted run is repeated from its start, so that its timing is comparable.
        shutil.rmtree(cell.folder, ignore_errors=True)
        run = Run(cell.settings.copied(), recipe=comparison.recipe)
        try:
            result = run.start(run_dir=cell.folder, observer=watcher.begins(cell, number, total), log_level=log_level)
        except RunError as error:
            failures.append(f"{cell.arm} seed {cell.seed}: {error}")
            watcher.failed(cell, str(error))
            continue
        if result.outcome != "done":
            raise KeyboardInterrupt
    return failures
