"""Red flags of the tuning guide: rules over the last reports that detect training problems (no torch).

Values are means of |weighted| over a window. A loss dominates only if both its value and its gradient
do, because values alone are misleading (see `learner.update.gradients`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from learner.loss_descriptor import BUILT_IN, LossDescriptor

FLAGS = (
    "loss_dominates",
    "muesli_ratio",
    "entropy_collapsed",
    "entropy_high",
    "explained_variance_negative",
    "loss_spike",
    "non_finite",
    "checkpoint_failed",
    "actor_silent",
)

WINDOW = 20
"""Means are taken over this many reports."""
DOMINATES = 10.0
COMPARABLE = 3
"""The smallest number of losses that are compared. PPO's two losses alone differ by a factor of 50 to
800 by value."""
ENTROPY_LOW, ENTROPY_HIGH, ENTROPY_ACTIONS = 1.0, 4.0, 157
"""The guide's limits in nats are for 157 actions. For other numbers of actions they are the same
fractions of the uniform policy's entropy."""
NEGATIVE_REPORTS = 10
VARIANCE_FLOOR = 0.1
SPIKE_Z = 10.0
SPIKE_HISTORY = 30
WARM_UP = 0.25
"""The initial policy is random, so high entropy raises a flag only after this fraction of the
budget."""


@dataclass(frozen=True)
class Observation:
    """The numbers of one report that the rules use.

    Attributes:
        weighted: the magnitude of each weighted loss. For a cross-entropy it is that of the KL, because
            the target's entropy has no gradient.
        gradient: each loss's gradient norm on the trunk; NaN until measured.
        policy: the magnitude of the policy-gradient loss's term `policy`; NaN without such a loss.
        policy_loss: the name of the policy-gradient loss; empty without one.
        entropy_nats: the policy's entropy in nats.
        entropy_ratio: the policy's entropy divided by a uniform policy's.
        explained_variance: the value head's explained variance.
        target_variance: the variance of the value targets.
        skipped: updates skipped since the last report.
        progress: the fraction of the budget that is spent, 0..1.
    """

    weighted: Mapping[str, float]
    gradient: Mapping[str, float]
    policy: float
    entropy_nats: float
    entropy_ratio: float
    explained_variance: float
    target_variance: float
    skipped: int
    progress: float
    policy_loss: str = "ppo_actor"


@dataclass
class RedFlags:
    """Keeps the last reports and determines which flags they raise.

    Attributes:
        descriptors: the run's losses, by name.
        blamed: the losses that caused flags in the last report, each with the reason.
    """

    window: deque[Observation] = field(default_factory=lambda: deque(maxlen=WINDOW))
    history: dict[str, deque[float]] = field(default_factory=dict)
    variance_sum: float = 0.0
    variance_count: int = 0
    blamed: dict[str, str] = field(default_factory=dict)
    descriptors: Mapping[str, LossDescriptor] = field(default_factory=lambda: BUILT_IN)

    def update(self, observation: Observation) -> dict[str, str]:
        """Add a report and return the raised flags, each with a one-line reason."""
        self.window.append(observation)
        self.blamed = {}
        found = {
            "loss_dominates": self._dominates(),
            "muesli_ratio": self._policy_ratio(),
            "entropy_collapsed": self._entropy_collapsed(observation),
            "entropy_high": self._entropy_high(observation),
            "explained_variance_negative": self._explained_variance(observation),
            "loss_spike": self._spike(observation),
            "non_finite": f"{observation.skipped} updates were not applied" if observation.skipped else "",
        }
        return {flag: why for flag, why in found.items() if why}

    def state(self) -> dict[str, Any]:
        """The state for the checkpoint, as JSON values; numbers that are not finite become None."""
        return {
            "window": [finite_or_none(asdict(report)) for report in self.window],
            "history": {loss: list(values) for loss, values in self.history.items()},
            "variance_sum": self.variance_sum,
            "variance_count": self.variance_count,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.window = deque((Observation(**nan_for_none(report)) for report in state["window"]), maxlen=WINDOW)
        self.history = {loss: deque(values, maxlen=SPIKE_HISTORY) for loss, values in state["history"].items()}
        self.variance_sum, self.variance_count = state["variance_sum"], state["variance_count"]

    def _means(self, kind: str) -> dict[str, float]:
        """The mean of each loss's finite values in the window; NaN if there are none."""
        means = {}
        for loss in self.window[-1].weighted:
            values = [getattr(report, kind)[loss] for report in self.window]
            finite = [value for value in values if math.isfinite(value)]
            means[loss] = sum(finite) / len(finite) if finite else math.nan
        return means

    def _dominates(self) -> str:
        """Whether one loss is above ten times the median of the others, by value and by gradient."""
        values, gradients = self._means("weighted"), self._means("gradient")
        if len(values) < COMPARABLE:
            return ""
        for loss, value in values.items():
            others = [abs(other) for name, other in values.items() if name != loss]
            pushes = [other for name, other in gradients.items() if name != loss]
            if value > DOMINATES * median(others) and gradients[loss] > DOMINATES * median(pushes):
                why = f"{loss} is over {DOMINATES:g} times the median of the other losses, by value and by gradient"
                return self._blame(loss, why)
        return ""

    def _blame(self, loss: str, why: str) -> str:
        self.blamed[loss] = why
        return why

    def _policy_ratio(self) -> str:
        """Whether the ratio of a loss's gradient to the policy gradient is outside its range."""
        gradients, policy_loss = self._means("gradient"), self.window[-1].policy_loss
        if not gradients.get(policy_loss, 0.0) > 0:
            return ""
        raised = ""
        for name, gradient in gradients.items():
            low, high = self._ratio_range(name)
            ratio = gradient / gradients[policy_loss]
            if ratio < low or ratio > high:
                values = self._means("weighted")
                policy = sum(report.policy for report in self.window) / len(self.window)
                by_value = values[name] / policy if policy else math.nan
                raised = (
                    f"{name} / {policy_loss} is {ratio:.2g} by gradient and {by_value:.2g} by value; "
                    f"expected {low:g} to {high:g}"
                )
                if ratio > high:
                    self._blame(name, raised)
        return raised

    def _ratio_range(self, loss: str) -> tuple[float, float]:
        descriptor = self.descriptors.get(loss)
        return (descriptor and descriptor.policy_ratio) or (-math.inf, math.inf)

    def _entropy_collapsed(self, observation: Observation) -> str:
        limit = ENTROPY_LOW / math.log(ENTROPY_ACTIONS)
        if observation.entropy_ratio < limit:
            return (
                f"entropy is {observation.entropy_nats:.2f} nats, {observation.entropy_ratio:.0%} of uniform, below {limit:.0%}"
            )
        return ""

    def _entropy_high(self, observation: Observation) -> str:
        limit = ENTROPY_HIGH / math.log(ENTROPY_ACTIONS)
        if observation.progress >= WARM_UP and observation.entropy_ratio > limit:
            return (
                f"entropy is {observation.entropy_nats:.2f} nats, {observation.entropy_ratio:.0%} of uniform, above {limit:.0%}"
            )
        return ""

    def _explained_variance(self, observation: Observation) -> str:
        """Whether it was negative in several reports in a row.

        Reports whose returns hardly vary do not count: a solved CartPole has values such as -9.
        """
        if math.isfinite(observation.target_variance):
            self.variance_sum += observation.target_variance
            self.variance_count += 1
        if len(self.window) < NEGATIVE_REPORTS or not self.variance_count:
            return ""
        floor = VARIANCE_FLOOR * self.variance_sum / self.variance_count
        last = list(self.window)[-NEGATIVE_REPORTS:]
        if all(report.explained_variance < 0 and report.target_variance >= floor for report in last):
            now = last[-1].explained_variance
            return f"explained variance was negative in the last {NEGATIVE_REPORTS} reports ({now:.2f} now)"
        return ""

    def _spike(self, observation: Observation) -> str:
        """Whether a weighted loss differs from its recent median by many median absolute deviations."""
        raised = ""
        for loss, value in observation.weighted.items():
            history = self.history.setdefault(loss, deque(maxlen=SPIKE_HISTORY))
            if len(history) == SPIKE_HISTORY and math.isfinite(value):
                middle = median(history)
                deviation = 1.4826 * median(abs(entry - middle) for entry in history)
                if abs(value - middle) > SPIKE_Z * max(deviation, 0.05 * abs(middle), 1e-12):
                    raised = self._blame(loss, f"{loss} jumped from about {middle:.3g} to {value:.3g}")
            if math.isfinite(value):
                history.append(value)
        return raised


def finite_or_none(value: Any) -> Any:
    """Replace numbers that are not finite by None, also in nested mappings."""
    if isinstance(value, Mapping):
        return {name: finite_or_none(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nan_for_none(value: Any) -> Any:
    """Replace each None by NaN, also in nested mappings."""
    if isinstance(value, Mapping):
        return {name: nan_for_none(entry) for name, entry in value.items()}
    return math.nan if value is None else value
