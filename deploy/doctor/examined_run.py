"""A run as the doctor looks at it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from deploy.curves import Lines, column, read_lines
from oatmill.settings.flat import numbers_of
from runner.folder import read_json
from runner.settings import read_config

WINDOW = 20
"""Reports at the end of the run that a mean is taken over."""


@dataclass(frozen=True)
class ExaminedRun:
    """A run as the doctor looks at it.

    Attributes:
        name: what it is called in the doctor's words.
        lines: of metrics.jsonl, or what Prometheus knows of them.
        settings: the numbers that it ran with, by dotted path.
        trouble: that it failed, or hangs, and how; empty if it does not.
        remark: what else is to be said of where it stands.
    """

    name: str
    lines: Lines
    settings: Mapping[str, float]
    trouble: str = ""
    remark: str = ""

    def setting(self, path: str) -> float:
        """A setting's number; NaN where it has none."""
        return self.settings.get(path, math.nan)

    def recent(self, *path: str) -> float:
        """The mean over the last reports; NaN where there is none."""
        return mean(column(self.lines[-WINDOW:], *path))

    @property
    def losses(self) -> Mapping[str, Any]:
        """The losses of the last report."""
        found: Mapping[str, Any] = self.lines[-1]["losses"]
        return found

    @property
    def progress(self) -> float:
        """The part of the budget that is spent."""
        return float(self.lines[-1]["env_steps"]) / self.setting("trainer.total_timesteps")

    @property
    def updates(self) -> float:
        """How many updates there were in the whole run."""
        return sum(value for value in column(self.lines, "updates") if math.isfinite(value))


def examined_run_of_folder(run_dir: Path) -> ExaminedRun:
    """A run from its folder.

    Raises:
        UserError: if the folder holds no run, or one that has reported nothing.
    """
    lines = read_lines(run_dir)
    error = read_json(run_dir / "summary.json").get("error")
    settings = numbers_of(read_config(run_dir / "config.yaml").to_dict())
    return ExaminedRun(f"run {run_dir}", lines, settings, f"the run failed: {error}" if error else "")


def mean(values: Sequence[float]) -> float:
    """The mean of the finite ones; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan
