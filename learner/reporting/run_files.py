"""Writes a run's measurements to its files: metrics.jsonl, events.jsonl, and the learner's part of the summary."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from learner.loss_descriptor import LOSSES_FILE, LossDescriptor, to_json
from learner.progress import Progress
from learner.reporting.evaluations import Evaluations
from learner.reporting.loggers import BackgroundWriters
from learner.reporting.measurements import StepReport, explained_variance, plain
from learner.reporting.metrics import RETURN_STEPS
from learner.reporting.red_flags import FLAGS, Observation, RedFlags
from learner.reporting.silent_actors import silence
from learner.reporting.steering import Move
from oatmill.files.atomic import append_line
from oatmill.files.full_disk import NeededWrites
from oatmill.files.run_files import EVENTS_FILE, LEARNER_FILE, METRICS_FILE
from protocol.data.trajectory import AGENT_SPREAD, Array

SAY_EVERY_S = 30.0
"""How often the log says how far and how well the run is."""
LAG_WINDOW = 10_000
RATE_WINDOW_S = 10.0
"""The rate of env steps that is reported is of the learner steps of this time, so that it follows a change of the actors."""
WRITTEN_WITHIN_S = 5.0
"""On a full disk, writing the last events and the summary is retried for this long."""

log = logging.getLogger("oatmill.learner")


@dataclass
class RunFiles:
    """Writes one run's files; rank 0 only.

    Args:
        run_dir: the run's folder.
        uniform_entropy: the entropy of a uniform policy, in nats.
        total_timesteps: the budget, in env steps.
        writers: write every line in other tools' formats, too.
    """

    run_dir: Path
    uniform_entropy: float
    total_timesteps: int
    writers: BackgroundWriters | None = None
    flags: RedFlags = field(default_factory=RedFlags)
    raised: dict[str, str] = field(default_factory=dict)
    ever_raised: dict[str, str] = field(default_factory=dict)
    last_line: dict[str, Any] = field(default_factory=dict)
    lags: list[Array] = field(default_factory=list)
    replayed_lags: list[Array] = field(default_factory=list)
    first_step: tuple[float, int] | None = None  # seconds and env steps when the first learner step ended
    last_step: tuple[float, int] = (0.0, 0)
    recent_steps: deque[tuple[float, int]] = field(default_factory=deque)  # the same of the steps in the rate's window
    waited: float = 0.0  # seconds without a batch since the last report
    reported_at: float = 0.0
    failed_checkpoint: str = ""  # why the last one could not be written
    silent: dict[str, str] = field(default_factory=dict)  # actors that send nothing, by id, with the message
    lost_lines: int = 0
    say_at: float = 0.0  # seconds of training at which the log says the next line

    def __post_init__(self) -> None:
        """On a full disk, events and the summary wait until there is space. Evaluations count from now on."""
        self.needed = NeededWrites(self.run_dir)
        self.evaluations = Evaluations(self.run_dir)

    def step(self, progress: Progress, lag: Array, replayed_lag: Array | None = None, *, waited: float = 0.0) -> None:
        """Count a learner step, reported or not.

        Args:
            progress: the run's progress.
            lag: the policy lag of each fresh trajectory, in versions.
            replayed_lag: the policy lag of each trajectory from the replay buffer.
            waited: seconds that the step waited for its batch.
        """
        self.waited += waited
        self.lags.append(lag)
        if replayed_lag is not None and len(replayed_lag):
            self.replayed_lags.append(replayed_lag)
        self.last_step = (progress.seconds, progress.env_steps)
        if self.first_step is None:
            self.first_step = self.last_step
        self.recent_steps.append(self.last_step)
        while len(self.recent_steps) > 2 and self.recent_steps[1][0] <= progress.seconds - RATE_WINDOW_S:  # noqa: PLR2004
            self.recent_steps.popleft()

    def report(
        self, report: StepReport, progress: Progress, *, learning_rate: float, fleet: Mapping[str, Any]
    ) -> dict[str, str]:
        """Write a line of metrics.jsonl and return the red flags that are raised now.

        Args:
            report: the measurements since the last line.
            progress: the run's progress.
            learning_rate: the learning rate of the last learner step.
            fleet: the replay server's statistics of the actors.
        """
        entropy = self.entropy(report)
        variance, target_variance = explained_variance(report.statistics)
        line = progress._asdict() | {
            "losses": {name: loss.to_dict() for name, loss in report.losses.items()},
            "entropy": entropy,
            "explained_variance": variance,
            **{name: report.statistics.get(f"forward.{name}", math.nan) for name in ("log_std", "log_std_min", "log_std_max")},
            "return_steps": {label: report.statistics.get(name, math.nan) for label, name in RETURN_STEPS.items()},
            "approx_kl": report.policy("approx_kl"),
            "clip_ratio": report.policy("clip_ratio"),
            "gradient_norm": report.gradient_norm,
            "updates": report.updates,
            "skipped_updates": report.skipped,
            "stopped_early": report.stopped_early,
            "learning_rate": learning_rate,
            "policy_lag": percentiles(self.lags),
            "replayed_policy_lag": percentiles(self.replayed_lags),
            "env_steps_per_second": self.recent_rate(),
            "wait_fraction": self.wait_fraction(progress.seconds),
            "episode_return": fleet.get("episode_return"),
            "eval_return": self.evaluations.newest(),
            "episode_length": fleet.get("episode_length"),
            "episodes": fleet.get("episodes"),
            "episode_statistics": fleet.get("statistics"),
            "queue": fleet.get("queue"),
        }
        observation = observe(report, entropy, (variance, target_variance), progress.env_steps / self.total_timesteps, fleet)
        self.note_flags(self.flags.update(observation), progress)
        line["red_flags"] = sorted(self.raised)
        self.last_line = plain(line)
        self._append(METRICS_FILE, self.last_line)
        self._say(self.last_line)
        self.needed.flush()
        if self.writers is not None:
            self.writers.write(self.last_line)
        return self.raised

    def _say(self, line: Mapping[str, Any]) -> None:
        """Log a line now and then, so that a container's log shows that and how well the learner trains."""
        if line["seconds"] >= self.say_at:
            self.say_at = line["seconds"] + SAY_EVERY_S
            log.info("%s", log_line(line, self.total_timesteps))

    def describe(self, descriptors: Mapping[str, LossDescriptor]) -> None:
        """Write the descriptors of the run's losses, for commands that read the run folder."""
        self.flags.descriptors = descriptors
        self.needed.file(self.run_dir / LOSSES_FILE, json.dumps(to_json(descriptors), indent=1))

    def note_flags(self, raised: dict[str, str], progress: Progress) -> None:
        """Write an event for each flag that was raised or cleared since the last report."""
        if self.failed_checkpoint:
            raised = raised | {"checkpoint_failed": self.failed_checkpoint}
        if self.silent:
            raised = raised | {"actor_silent": "; ".join(self.silent.values())}
        for flag in FLAGS:
            if (flag in raised) != (flag in self.raised):
                event = "red_flag_raised" if flag in raised else "red_flag_cleared"
                self.event(event, flag=flag, why=raised.get(flag, ""), learner_step=progress.learner_step)
        self.raised = raised
        self.ever_raised |= raised

    def note_moves(self, moves: Sequence[Move], progress: Progress) -> None:
        """Write an event for each coefficient that changed."""
        for move in moves:
            self.event("coefficient_moved", **move._asdict(), learner_step=progress.learner_step)

    def note_silent(self, seconds: Mapping[str, float], progress: Progress) -> None:
        """Write an event for each actor that became silent or is no longer silent.

        Args:
            seconds: how long each silent actor has been silent, by actor id.
            progress: the run's progress.
        """
        step = progress.learner_step
        for actor in sorted(seconds.keys() - self.silent.keys()):
            self.silent[actor] = reason = silence(actor, seconds[actor])
            self.event("actor_silent", text=reason, actor=int(actor), reason=reason, learner_step=step)
        for actor in sorted(self.silent.keys() - seconds.keys()):
            del self.silent[actor]
            text = f"actor {actor} is no longer silent: it has sent a trajectory or left"
            self.event("actor_silent_no_more", text=text, actor=int(actor), learner_step=step)

    def event(self, event: str, **values: Any) -> None:
        """Add a line to events.jsonl. A line with a `text` is also shown on the console."""
        self.needed.line(self.run_dir / EVENTS_FILE, {"time": time.time(), "event": event} | values)

    def _append(self, name: str, content: Mapping[str, Any]) -> None:
        """Append a line to a file. On a full disk the line is lost and counted."""
        try:
            append_line(self.run_dir / name, content)
        except OSError as error:
            self.lost_lines += 1
            log.warning("a line of %s could not be written: %s", name, error.strerror)

    def take_lost_lines(self) -> int:
        """The number of lines lost since the last call."""
        lost, self.lost_lines = self.lost_lines, 0
        return lost

    def state(self) -> dict[str, Any]:
        """The state for the checkpoint, as JSON values."""
        return {"flags": self.flags.state(), "raised": self.raised, "ever_raised": self.ever_raised}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned. The rate of env steps is measured again from here."""
        self.flags.load(state["flags"])
        self.raised, self.ever_raised = dict(state["raised"]), self.ever_raised | state["ever_raised"]
        self.first_step = None
        self.recent_steps.clear()

    def entropy(self, report: StepReport) -> dict[str, float]:
        """Entropy in nats and as a fraction of a uniform policy's (over the allowed actions, with action masks).

        Without a policy-gradient loss it is measured before the updates.
        """
        nats = report.policy("entropy") if report.policy_loss else report.statistics.get("forward.entropy", math.nan)
        uniform = report.statistics.get("forward.uniform_entropy", self.uniform_entropy)
        return {"nats": nats, "fraction": nats / uniform if uniform else math.nan}

    def wait_fraction(self, seconds: float) -> float:
        """The fraction of the time since the last report in which the learner waited for a batch."""
        passed, waited = seconds - self.reported_at, self.waited
        self.reported_at, self.waited = seconds, 0.0
        return min(1.0, waited / passed) if passed > 0 else math.nan

    def recent_rate(self) -> float:
        """Env steps per second of the last `RATE_WINDOW_S`; of the last two learner steps if they take longer."""
        return rate_between(self.recent_steps[0], self.last_step) if self.recent_steps else math.nan

    def rate(self) -> float:
        """Env steps per second of the whole run, from the end of the first learner step to the end of the last."""
        return math.nan if self.first_step is None else rate_between(self.first_step, self.last_step)

    def summary(self, progress: Progress) -> None:
        """Write learner.json, the learner's part of the summary."""
        names = ("losses", "entropy", "explained_variance", "episode_return", "episode_length", "episode_statistics")
        content = {
            "learner_steps": progress.learner_step,
            "env_steps": progress.env_steps,
            "seconds": progress.seconds,
            "env_steps_per_second": self.rate(),
            "policy_version": progress.policy_version,
            "policy_lag": percentiles(self.lags),
            "replayed_policy_lag": percentiles(self.replayed_lags),
            "red_flags": [{"flag": flag, "why": why} for flag, why in self.ever_raised.items()],
        } | {name: self.last_line.get(name) for name in names}
        self.needed.file(self.run_dir / LEARNER_FILE, json.dumps(plain(content), indent=1))

    def close(self) -> None:
        """Retry the writes that wait for disk space, and close the files of other tools."""
        self.needed.close(WRITTEN_WITHIN_S)
        if self.writers is not None:
            self.writers.close()


def log_line(line: Mapping[str, Any], total_timesteps: int) -> str:
    """How far, how fast and how well, with each weighted loss, from a line of metrics.jsonl."""

    def shown(value: Any, form: str) -> str:
        return "-" if value is None else format(value, form)

    losses = ", ".join(f"{name} {shown(loss['weighted'], '.3g')}" for name, loss in line["losses"].items())
    return (
        f"learner step {line['learner_step']:,}: {line['env_steps']:,} of {total_timesteps:,} env steps, "
        f"{shown(line['env_steps_per_second'], ',.0f')} per second, "
        f"return {shown((line['episode_return'] or {}).get('mean'), '.2f')}; {losses}"
    )


def rate_between(first: tuple[float, int], last: tuple[float, int]) -> float:
    """Env steps per second between two times, each with its env steps; NaN if no time has passed."""
    return (last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else math.nan


def observe(
    report: StepReport,
    entropy: Mapping[str, float],
    variance: tuple[float, float],
    progress: float,
    fleet: Mapping[str, Any],
) -> Observation:
    """The numbers that the red flags need."""
    returns = {name: value for name, value in (fleet.get("episode_return") or {}).items() if value is not None}
    return Observation(
        weighted={name: report.weighted_magnitude(name) for name in report.losses},
        gradient={name: loss.gradient_norm for name, loss in report.losses.items()},
        policy=abs(report.policy("policy")),
        policy_loss=report.policy_loss,
        entropy_nats=entropy["nats"],
        entropy_ratio=entropy["fraction"],
        explained_variance=variance[0],
        target_variance=variance[1],
        skipped=report.skipped,
        progress=progress,
        approx_kl=report.policy("approx_kl"),
        return_mean=returns.get("mean", math.nan),
        return_std=returns.get("std", math.nan),
        episodes=int(returns.get("n", 0)),
        agent_spread=(fleet.get("statistics") or {}).get(AGENT_SPREAD, 0.0),
    )


def percentiles(lags: list[Array]) -> dict[str, float]:
    """Median and 99th percentile of the last `LAG_WINDOW` policy lags, in versions.

    Older entries are removed from the list.
    """
    if not lags:
        return {"p50": math.nan, "p99": math.nan}
    kept = np.concatenate(lags)[-LAG_WINDOW:]
    lags[:] = [kept]
    return {"p50": float(np.percentile(kept, 50)), "p99": float(np.percentile(kept, 99))}
