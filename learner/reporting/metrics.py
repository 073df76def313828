"""The learner's Prometheus metrics, which only rank 0 exports.

All series with known labels exist from the start, with the value 0.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from learner.loss_descriptor import BUILT_IN, LossDescriptor
from learner.plan import GRADIENT
from learner.reporting.measurements import StepReport
from learner.reporting.rank_resources import GpuCollector, Resources, process_name, processes_of
from learner.reporting.red_flags import FLAGS
from learner.update.updater import Record
from oatmill.process.metrics import ProcessCollector
from oatmill.settings.flat import numbers_of

PHASES = ("wait", "prepare", "forward", "backward", "optimizer", "publish")
LOG_STDS = {"mean": "forward.log_std", "min": "forward.log_std_min", "max": "forward.log_std_max"}
RETURN_STEPS = {"fresh": "returns.steps", "replayed": "returns.steps_replayed", "on_policy": "returns.steps_on_policy"}
STEP_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class LearnerMetrics:
    """The learner's series; docs/reference/metrics.md describes each of them.

    Args:
        autos: the plan's choice for each setting that was left at `auto`.
        settings: the run's settings, nested; numbers among them are exported.
        healthy: returns whether the learner makes progress; called at each scrape.
        losses: the descriptors of the run's losses, by name.
        ranks: returns what each rank uses; called at each scrape.
        others: returns what other processes use, by the label `process`; called at each scrape.
    """

    def __init__(
        self,
        autos: Mapping[str, str],
        settings: Mapping[str, Any],
        healthy: Callable[[], bool] = lambda: True,
        losses: Mapping[str, LossDescriptor] | None = None,
        *,
        ranks: Callable[[], Sequence[Resources]] = tuple,
        others: Callable[[], Mapping[str, Mapping[str, float]]] = dict,
    ) -> None:
        self.descriptors = {**BUILT_IN, **(losses or {})}
        self.registry = CollectorRegistry()
        libraries = {"torch": torch.__version__}
        own = {process_name(0): os.getpid()}
        self.registry.register(ProcessCollector(own, libraries, lambda: {**processes_of(ranks()), **others()}))
        self.registry.register(GpuCollector(ranks))
        self._create_loss_series()
        self._create_run_series()
        self._create_children(healthy)
        for name, descriptor in (losses or {}).items():
            self.loss_info.labels(name, descriptor.role).set(1)
        for setting, choice in autos.items():
            self.auto.labels(setting, choice).set(1)
        for path, number in numbers_of(settings).items():
            self.setting.labels(path).set(number)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(f"oatmill_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"oatmill_{name}", text, labels, registry=self.registry)

    def _create_loss_series(self) -> None:
        gauge, counter, by_term, by_loss = self._gauge, self._counter, ("loss", "term"), ("loss",)
        self.loss = gauge("loss", "Unweighted value of a loss's term at the last report", by_term)
        self.coefficient = gauge("loss_coefficient", "Coefficient of a term in the objective", by_term)
        self.abs_sum = counter("loss_abs_sum", "Sum over updates of the magnitude of a term's mean", by_term)
        self.loss_updates = counter("loss_updates", "Updates that a term was part of", by_term)
        self.nonfinite = counter("loss_nonfinite", "Updates skipped because this loss was not finite", by_loss)
        self.loss_gradient_norm = gauge("loss_gradient_norm", "Norm of a weighted loss's gradient on the trunk", by_loss)
        self.loss_gradient_share = gauge(
            "loss_gradient_share", "A loss's fraction of the sum of all losses' gradient norms", by_loss
        )
        self.loss_share = gauge("loss_share", "A loss's fraction of the sum of the magnitudes of all weighted losses", by_loss)
        self.gradient_norm = gauge("gradient_norm", "Norm of the total gradient before clipping, mean over updates")
        self.entropy_nats = gauge("policy_entropy_nats", "Mean entropy of the policy")
        self.entropy_ratio = gauge("policy_entropy_ratio", "Mean entropy divided by the entropy of a uniform policy")
        self.log_std = gauge("policy_log_std", "Log std of a Gaussian policy's numbers on fresh steps", ("statistic",))
        self.explained_variance = gauge("explained_variance", "1 - Var(target - value) / Var(target)")
        self.return_steps = gauge("return_steps", "Steps that a return uses: the sum of its steps' weights", ("data",))
        self.approx_kl = gauge("approx_kl", "KL between the policy at the batch's start and after its updates")
        self.clip_ratio = gauge("clip_ratio", "Fraction of steps whose ratio was outside of the clip range")
        self.of_losses = {
            (loss, number): gauge(name, text)
            for loss, descriptor in self.descriptors.items()
            for name, (number, text) in descriptor.gauges.items()
        }
        self.loss_info = gauge("loss_info", "1 for every enabled loss, with its role", ("loss", "role"))

    def _create_run_series(self) -> None:
        gauge, counter = self._gauge, self._counter
        self.red_flag = gauge("red_flag", "1 while a red flag is raised", ("flag",))
        self.lines_lost = counter("metrics_lines_lost", "Lines of metrics.jsonl that could not be written")
        self.checkpoint_failures = counter("checkpoint_failures", "Checkpoints that could not be written")
        self.red_flag_reports = counter("red_flag_reports", "Reports in which a red flag was raised", ("flag",))
        self.progress = gauge("progress_ratio", "Fraction of the budget of env steps that is spent")
        self.learner_steps = counter("learner_steps", "Batches trained on")
        self.stopped_early = counter("learner_steps_stopped_early", "Learner steps that target_kl ended before the last epoch")
        self.step_seconds = Histogram(
            "oatmill_learner_step_seconds",
            "Time of a learner step by phase",
            ("phase",),
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        self.eval_return = gauge("eval_return", "Mean return of the evaluator's newest checkpoint", ("policy",))
        self.learning_rate = gauge("learning_rate", "Learning rate of the last learner step")
        self.last_update = gauge("learner_last_update_timestamp_seconds", "When the last learner step ended")
        self.last_checkpoint = gauge("learner_last_checkpoint_timestamp_seconds", "When the last checkpoint was written")
        self.policy_version = gauge("policy_version", "Newest published policy version")
        self.auto = gauge("auto", "1 for the choice made for each setting that was left at auto", ("setting", "choice"))
        self.setting = gauge("setting", "Value of a numeric setting; 0 or 1 for a bool", ("setting",))
        self.up = gauge("up", "1 while this process makes progress", ("role",))

    def _create_children(self, healthy: Callable[[], bool]) -> None:
        for loss, descriptor in self.descriptors.items():
            for family in (self.nonfinite, self.loss_gradient_norm, self.loss_gradient_share, self.loss_share):
                family.labels(loss)
            for term in descriptor.terms:
                for family in (self.loss, self.coefficient, self.abs_sum, self.loss_updates):
                    family.labels(loss, term)
        self.nonfinite.labels(GRADIENT)
        for flag in FLAGS:
            self.red_flag.labels(flag)
            self.red_flag_reports.labels(flag)
        for phase in PHASES:
            self.step_seconds.labels(phase)
        self.up.labels("learner").set_function(lambda: float(healthy()))

    def step(self, record: Record, *, learning_rate: float, version: int, progress: float) -> None:
        """Update the series that need no transfer from the device, after every learner step."""
        self.learner_steps.inc()
        self.stopped_early.inc(record.stopped_early)
        self.progress.set(progress)
        self.learning_rate.set(learning_rate)
        self.policy_version.set(version)
        self.last_update.set(time.time())
        for phase, seconds in record.seconds.items():
            self.step_seconds.labels(phase).observe(seconds)

    def report(self, report: StepReport, flags: Mapping[str, bool], summary: Mapping[str, float]) -> None:
        """Update the series from a report.

        Args:
            report: losses and statistics.
            flags: whether each red flag is raised.
            summary: the values of entropy_nats, entropy_ratio and explained_variance.
        """
        for name, loss in report.losses.items():
            for term, entry in loss.terms.items():
                self.coefficient.labels(name, term).set(entry.coef)
                self.loss.labels(name, term).set(entry.raw)
            for term, value in loss.statistics.items():
                self.loss.labels(name, term).set(value)
            kl = self.descriptors[name].kl if name in self.descriptors else "kl"
            if kl in loss.statistics:
                self.loss.labels(name, "kl").set(loss.statistics[kl])
            self.loss_share.labels(name).set(loss.share)
            self.loss_gradient_norm.labels(name).set(loss.gradient_norm)
            self.loss_gradient_share.labels(name).set(loss.gradient_share)
        for name, updates in report.nonfinite.items():
            self.nonfinite.labels(name).inc(updates)
        for (name, term), means in report.update_means.items():
            finite = means[np.isfinite(means)]
            self.abs_sum.labels(name, term).inc(float(np.abs(finite).sum()))
            self.loss_updates.labels(name, term).inc(len(finite))
        self._report_policy(report, summary)
        for flag, raised in flags.items():
            self.red_flag.labels(flag).set(raised)
            self.red_flag_reports.labels(flag).inc(raised)

    def evaluation(self, eval_return: Mapping[str, Any] | None) -> None:
        """Update the evaluator's series; without a new evaluation they keep their values."""
        for policy in ("deterministic", "drawn") if eval_return is not None else ():
            self.eval_return.labels(policy).set((eval_return or {})[policy]["mean"])

    def _report_policy(self, report: StepReport, summary: Mapping[str, float]) -> None:
        self.gradient_norm.set(report.gradient_norm)
        self.entropy_nats.set(summary["entropy_nats"])
        self.entropy_ratio.set(summary["entropy_ratio"])
        self.explained_variance.set(summary["explained_variance"])
        for label, statistic in LOG_STDS.items():
            if statistic in report.statistics:  # no series for policies without numbers
                self.log_std.labels(label).set(report.statistics[statistic])
        for label, statistic in RETURN_STEPS.items():
            if math.isfinite(steps := report.statistics.get(statistic, math.nan)):  # no series without replayed data
                self.return_steps.labels(label).set(steps)
        if report.policy_loss:
            self.approx_kl.set(report.policy("approx_kl"))
            self.clip_ratio.set(report.policy("clip_ratio"))
        for (name, number), gauge in self.of_losses.items():
            if name in report.losses:
                gauge.set(report.losses[name].value(number))
