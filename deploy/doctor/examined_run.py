"""A run as the doctor sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from deploy.curves import column, read_descriptors
from learner.loss_descriptor import LossDescriptor, describe
from learner.reporting.return_trend import ReturnTrend
from oatmill.errors import UserError
from oatmill.files.json_lines import all_lines
from oatmill.files.run_files import CONFIG_FILE, EVENTS_FILE, METRICS_FILE, SUMMARY_FILE
from oatmill.settings.flat import numbers_of
from protocol.data.trajectory import AGENT_SPREAD
from runner.continuing import way_on
from runner.folder import is_held, read_json, reading
from runner.metrics_table import Lines, read_lines
from runner.settings import read_config

EPISODES = 100
"""The return is the mean of this many episodes, where a line does not say of how many."""
WINDOW = 20
"""Means are taken over this many reports at the end of the run."""


@dataclass(frozen=True)
class ExaminedRun:
    """A run as the doctor sees it.

    Attributes:
        name: the name in the doctor's output.
        lines: the lines of metrics.jsonl, or what Prometheus knows of them; empty if it failed before the first one.
        settings: the run's settings that are numbers, by dotted path.
        trouble: how it failed or hangs; empty if it does not.
        remark: anything else about its state.
        own: the descriptors of its losses, as far as they are known.
        events: the lines of events.jsonl since it was started or resumed.
        ledger: the number of trajectories by outcome, once it has ended.
        folder: the run folder; None without one.
    """

    name: str
    lines: Lines
    settings: Mapping[str, float]
    trouble: str = ""
    remark: str = ""
    own: Mapping[str, LossDescriptor] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    ledger: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def setting(self, path: str) -> float:
        """The value of a setting; NaN if it is not a number."""
        return self.settings.get(path, math.nan)

    def recent(self, *path: str) -> float:
        """The mean over the last reports; NaN without any."""
        return mean(column(self.lines[-WINDOW:], *path))

    def share(self, loss: str, kind: str = "gradient_share") -> float:
        """A loss's share, the median over the second half of the reports; NaN without any.

        The last reports alone would mislead: where the learning rate falls to 0, noise is all that is left of most gradients.
        """
        shares = [value for value in column(self.lines[len(self.lines) // 2 :], "losses", loss, kind) if math.isfinite(value)]
        return median(shares) if shares else math.nan

    @property
    def losses(self) -> Mapping[str, Any]:
        """The losses of the last report."""
        found: Mapping[str, Any] = self.lines[-1]["losses"]
        return found

    @property
    def descriptors(self) -> Mapping[str, LossDescriptor]:
        """What is known about each loss of the last report."""
        return describe(self.losses, self.own)

    @property
    def progress(self) -> float:
        """The fraction of the budget that is spent."""
        return float(self.lines[-1]["env_steps"]) / self.setting("trainer.total_timesteps")

    @property
    def trend(self) -> ReturnTrend:
        """How the return has developed since the run began."""
        trend = ReturnTrend()
        for line in self.lines:
            returns = {name: value for name, value in (line.get("episode_return") or {}).items() if value is not None}
            # Prometheus knows the median of the last 100 episodes and not their spread.
            spread = (line.get("episode_statistics") or {}).get(AGENT_SPREAD) or 0.0
            trend.update(returns.get("mean", math.nan), returns.get("std", 0.0), int(returns.get("n", EPISODES)), spread)
        return trend

    @property
    def thrives(self) -> bool:
        """Whether the return has risen since the run began and is near its best."""
        return self.trend.thrives

    @property
    def updates(self) -> float:
        """The number of updates in the whole run."""
        return sum(value for value in column(self.lines, "updates") if math.isfinite(value))


def examined_folder(run_dir: Path) -> ExaminedRun:
    """Read a run's folder.

    Raises:
        UserError: if the folder holds no run, or a run without a report that has not failed.
    """
    summary, settings = read_json(run_dir / SUMMARY_FILE), numbers_of(read_config(run_dir / CONFIG_FILE).to_dict())
    with reading(run_dir / EVENTS_FILE):
        events = newest_part(all_lines(run_dir / EVENTS_FILE))
        trouble = f"the run failed: {summary['error']}" if summary.get("error") else killed(run_dir, events)
    with reading(run_dir / SUMMARY_FILE):
        ledger = dict(summary.get("ledger") or {})
    metrics = run_dir / METRICS_FILE
    try:
        lines = read_lines(run_dir)
    except UserError:
        if not trouble or (metrics.exists() and metrics.stat().st_size):
            raise
        lines = ()
    return ExaminedRun(
        f"run {run_dir}",
        lines,
        settings,
        trouble,
        own=read_descriptors(run_dir),
        events=events,
        ledger=ledger,
        folder=run_dir,
    )


def newest_part(events: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The events since the run was started or resumed for the last time."""
    starts = [place for place, event in enumerate(events) if event.get("event") == "started"]
    return events[starts[-1] :] if starts else events


def killed(run_dir: Path, events: Sequence[Mapping[str, Any]]) -> str:
    """How a run goes on that has started and neither runs nor has ended; empty for other runs."""
    names = {event.get("event") for event in events}
    if "started" not in names or "ended" in names or (run_dir / SUMMARY_FILE).exists() or is_held(run_dir):
        return ""
    return f"the run did not end in order: its processes were killed, and there is no {SUMMARY_FILE}; {way_on(run_dir)}"


def mean(values: Sequence[float]) -> float:
    """The mean of the finite values; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan
