"""The guide's red flags: rules over the last reports that detect problems with a loss or the policy (no torch).

A flag is raised only if its rule finds the same problem in several reports in a row, and it is cleared only after several
reports that are well within the bound (see `learner.reporting.latch`). A rule about the policy or the critic also looks at the
return: what would be a problem in a run that does not learn is normal in one that has solved its task. In self-play, one
agent wins what another one loses, so the return cannot rise, and low or high entropy raises no flag.

Values are means of |weighted| over a window. A loss dominates only if it does so by value and by gradient, because values alone
are misleading (see `learner.update.gradients`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from learner.loss_descriptor import BUILT_IN, LossDescriptor
from learner.reporting.latch import Finding, Latch
from learner.reporting.return_trend import ReturnTrend

RAISE_AFTER: Mapping[str, int] = {
    "loss_dominates": 5,
    "muesli_ratio": 5,
    "entropy_collapsed": 5,
    "entropy_high": 5,
    "explained_variance_negative": 10,
    "loss_spike": 1,
    "non_finite": 1,
}
"""How many reports in a row must find a problem before its flag is raised. A spike's rule counts spikes itself."""
FLAGS = (*RAISE_AFTER, "checkpoint_failed", "actor_silent")

WINDOW = 20
"""Means are taken over this many reports."""
DOMINATES = 10.0
COMPARABLE = 3
"""The fewest losses for which a median makes sense; PPO's two alone differ by a factor of 50 to 800 by value."""
ENTROPY_LOW, ENTROPY_HIGH, ENTROPY_ACTIONS = 1.0, 4.0, 157
"""The guide's bands in nats are for 157 actions; for others they are the same fractions of the uniform entropy."""
NEAR = 0.8
"""A ratio that has raised a flag is near its bound until it is below this fraction of it."""
ENTROPY_NEAR = 0.05
"""Entropy that has raised a flag is near its bound within this fraction of the uniform entropy."""
VARIANCE_FLOOR = 0.1
SPIKE_Z = 10.0
SPIKE_FLOOR = 0.5
"""A spike changes a loss by more than this fraction of the usual sum of all losses' magnitudes."""
SPIKE_HISTORY = 30
SPIKES = 3
"""This many spikes in a window raise the flag, if they do harm."""
LARGE_KL = 0.1
"""KL of one learner step, in nats; healthy PPO stays below 0.02."""
WARM_UP = 0.25
"""A policy starts out random, so high entropy is a flag only after this fraction of the budget."""


@dataclass(frozen=True)
class Observation:
    """The numbers of one report that the rules use.

    Attributes:
        weighted: each loss's weighted magnitude. For a cross-entropy it is the KL's, since the target's entropy is a constant
            without a gradient.
        gradient: each loss's gradient norm on the trunk; NaN until measured.
        policy: the magnitude of the policy gradient's policy term; NaN without one.
        policy_loss: the name of the policy-gradient loss; empty without one.
        entropy_nats: the policy's entropy in nats.
        entropy_ratio: the policy's entropy divided by a uniform policy's.
        explained_variance: the value head's explained variance.
        target_variance: the variance of the value targets.
        skipped: updates skipped since the last report.
        progress: the fraction of the budget that is spent, 0..1.
        approx_kl: how much the learner step changed the policy, in nats.
        return_mean: the mean return of the last episodes; NaN until an episode has ended.
        return_std: their standard deviation.
        episodes: their number.
        agent_spread: the mean standard deviation over the agents of an episode; 0 with one agent.
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
    approx_kl: float = math.nan
    return_mean: float = math.nan
    return_std: float = math.nan
    episodes: int = 0
    agent_spread: float = 0.0


@dataclass
class RedFlags:
    """Keeps the last reports and determines which flags they raise.

    Attributes:
        descriptors: the run's losses, by name.
        blamed: the losses that the flags of the last report blame, each with the line that says why.
    """

    window: deque[Observation] = field(default_factory=lambda: deque(maxlen=WINDOW))
    history: dict[str, deque[float]] = field(default_factory=dict)
    spikes: deque[dict[str, str]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    variance_sum: float = 0.0
    variance_count: int = 0
    trend: ReturnTrend = field(default_factory=ReturnTrend)
    latches: dict[str, Latch] = field(default_factory=lambda: {flag: Latch() for flag in RAISE_AFTER})
    blamed: dict[str, str] = field(default_factory=dict)
    descriptors: Mapping[str, LossDescriptor] = field(default_factory=lambda: BUILT_IN)

    def update(self, observation: Observation) -> dict[str, str]:
        """Add a report and return the raised flags, each with a one-line reason."""
        self.window.append(observation)
        returns = observation.return_mean, observation.return_std, observation.episodes
        self.trend.update(*returns, observation.agent_spread)
        found = {
            "loss_dominates": self._dominates(),
            "muesli_ratio": self._policy_ratio(),
            "entropy_collapsed": self._entropy_collapsed(observation),
            "entropy_high": self._entropy_high(observation),
            "explained_variance_negative": self._explained_variance(observation),
            "loss_spike": self._spike(observation),
            "non_finite": Finding(f"{observation.skipped} updates were not applied" if observation.skipped else ""),
        }
        raised = {flag: self.latches[flag].update(finding, RAISE_AFTER[flag]) for flag, finding in found.items()}
        self.blamed = {loss: why for flag, finding in found.items() if raised[flag] for loss, why in finding.losses.items()}
        return {flag: why for flag, why in raised.items() if why}

    def state(self) -> dict[str, Any]:
        """For the checkpoint, in JSON values; numbers that are not finite become None."""
        return {
            "window": [finite_or_none(asdict(report)) for report in self.window],
            "history": {loss: list(values) for loss, values in self.history.items()},
            "spikes": list(self.spikes),
            "variance_sum": self.variance_sum,
            "variance_count": self.variance_count,
            "trend": finite_or_none(asdict(self.trend)),
            "latches": {flag: asdict(latch) for flag, latch in self.latches.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """What `state` gave. A checkpoint of an older version has no spikes, trend or latches; they begin anew."""
        self.window = deque((Observation(**nan_for_none(report)) for report in state["window"]), maxlen=WINDOW)
        self.history = {loss: deque(values, maxlen=SPIKE_HISTORY) for loss, values in state["history"].items()}
        self.spikes = deque(state.get("spikes", ()), maxlen=WINDOW)
        self.variance_sum, self.variance_count = state["variance_sum"], state["variance_count"]
        self.trend = ReturnTrend(**nan_for_none(state.get("trend", {})))
        self.latches |= {flag: Latch(**latch) for flag, latch in state.get("latches", {}).items()}

    def _means(self, kind: str) -> dict[str, float]:
        """The window's mean of each loss; the gradients' last measured value."""
        means = {}
        for loss in self.window[-1].weighted:
            values = [getattr(report, kind)[loss] for report in self.window]
            finite = [value for value in values if math.isfinite(value)]
            means[loss] = sum(finite) / len(finite) if finite else math.nan
        return means

    def _dominates(self) -> Finding:
        """One loss above ten times the median of the others and above ten times the policy gradient.

        By value and by gradient. The policy gradient itself cannot dominate: it is what the others should assist.
        """
        values, gradients = self._means("weighted"), self._means("gradient")
        if len(values) < COMPARABLE:
            return Finding()
        policy_loss, near = self.window[-1].policy_loss, False
        for loss, value in values.items():
            others = [abs(other) for name, other in values.items() if name != loss]
            pushes = [other for name, other in gradients.items() if name != loss]
            push = max(median(pushes), gradients.get(policy_loss, 0.0))
            times = smaller(ratio(value, median(others)), ratio(gradients[loss], push))
            if loss != policy_loss and times > DOMINATES:
                why = f"{loss} is over {DOMINATES:g} times the median of the other losses, by value and by gradient"
                return Finding(why, losses={loss: why})
            near = near or (loss != policy_loss and times > NEAR * DOMINATES)
        return Finding(near=near)

    def _policy_ratio(self) -> Finding:
        """A loss whose gradient, as a multiple of the policy gradient's, is above the range of its descriptor.

        Below the range the loss only has too little effect, which `oatmill doctor` says.
        """
        gradients, policy_loss = self._means("gradient"), self.window[-1].policy_loss
        pushed = gradients.get(policy_loss, math.nan)
        near = False
        for name, gradient in gradients.items():
            high, times = self._highest_ratio(name), ratio(gradient, pushed)
            if times > high:
                policy = sum(report.policy for report in self.window) / len(self.window)
                by_value = ratio(self._means("weighted")[name], policy)
                why = f"{name} / {policy_loss} is {times:.2g} by gradient and {by_value:.2g} by value; expected up to {high:g}"
                return Finding(why, losses={name: why})
            near = near or times > NEAR * high
        return Finding(near=near)

    def _highest_ratio(self, loss: str) -> float:
        descriptor = self.descriptors.get(loss)
        return descriptor.policy_ratio[1] if descriptor and descriptor.policy_ratio else math.inf

    def _entropy_collapsed(self, observation: Observation) -> Finding:
        """Low entropy in a run whose return has not risen: in a solved task the policy is sure of its actions."""
        limit, now = ENTROPY_LOW / math.log(ENTROPY_ACTIONS), observation.entropy_ratio
        if self.trend.thrives or self.trend.balanced:
            return Finding()
        if now < limit:
            return Finding(f"{entropy_of(observation)}, below {limit:.0%}, and the return has not risen since the start")
        return Finding(near=now < limit + ENTROPY_NEAR)

    def _entropy_high(self, observation: Observation) -> Finding:
        """High entropy after a quarter of the budget, in a run whose return has not risen."""
        limit, now = ENTROPY_HIGH / math.log(ENTROPY_ACTIONS), observation.entropy_ratio
        if observation.progress < WARM_UP or self.trend.thrives or self.trend.balanced:
            return Finding()
        if now > limit:
            return Finding(f"{entropy_of(observation)}, above {limit:.0%}, and the return has not risen since the start")
        return Finding(near=now > limit - ENTROPY_NEAR)

    def _explained_variance(self, observation: Observation) -> Finding:
        """Negative, unless the returns hardly vary any more or the return thrives: a solved CartPole shows -9."""
        if math.isfinite(observation.target_variance):
            self.variance_sum += observation.target_variance
            self.variance_count += 1
        floor = VARIANCE_FLOOR * self.variance_sum / max(self.variance_count, 1)
        negative = observation.explained_variance < 0 and observation.target_variance >= floor
        if not negative or self.trend.thrives:
            return Finding()
        return Finding(f"explained variance stays negative ({observation.explained_variance:.2f} now)")

    def _spike(self, observation: Observation) -> Finding:
        """Several weighted losses far outside their own recent spread, while the return falls or the policy moves too far.

        A run that has just found a rare reward has larger losses and a policy that moves fast, and it thrives.
        """
        self.spikes.append(self._spikes_of(observation))
        spikes = [spike for spike in self.spikes if spike]
        moved = max((report.approx_kl for report in self.window if math.isfinite(report.approx_kl)), default=0.0)
        too_far = moved > LARGE_KL and not self.trend.thrives
        if len(spikes) < SPIKES or not (self.trend.fallen or too_far):
            return Finding(near=bool(spikes))
        why = "; ".join(spikes[-1].values())
        harm = "the return has fallen" if self.trend.fallen else f"a learner step changed the policy by {moved:.2f} nats"
        return Finding(f"{why}, one of {len(spikes)} jumps in {len(self.spikes)} reports; {harm}", losses=self.spikes[-1])

    def _spikes_of(self, observation: Observation) -> dict[str, str]:
        """The losses that jump in this report, by the median absolute deviation and by a floor for small ones."""
        usual = sum(abs(median(values)) for values in self.history.values() if values)
        found = {}
        for loss, value in observation.weighted.items():
            history = self.history.setdefault(loss, deque(maxlen=SPIKE_HISTORY))
            if len(history) == SPIKE_HISTORY and math.isfinite(value):
                middle = median(history)
                deviation = 1.4826 * median(abs(entry - middle) for entry in history)
                if abs(value - middle) > max(SPIKE_Z * max(deviation, 0.05 * abs(middle)), SPIKE_FLOOR * usual):
                    found[loss] = f"{loss} jumped from about {middle:.3g} to {value:.3g}"
            if math.isfinite(value):
                history.append(value)
        return found


def smaller(one: float, other: float) -> float:
    """The smaller of two numbers; NaN if one of them is."""
    return math.nan if math.isnan(one) or math.isnan(other) else min(one, other)


def entropy_of(observation: Observation) -> str:
    """A report's entropy in words."""
    return f"entropy is {observation.entropy_nats:.2f} nats, {observation.entropy_ratio:.0%} of uniform"


def ratio(value: float, to: float) -> float:
    """`value / to`; NaN where `to` is not above 0."""
    return value / to if to > 0 else math.nan


def finite_or_none(value: Any) -> Any:
    """A number that is not finite as None, in nested mappings too."""
    if isinstance(value, Mapping):
        return {name: finite_or_none(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nan_for_none(value: Any) -> Any:
    """What `finite_or_none` gave, with NaN for each None."""
    if isinstance(value, Mapping):
        return {name: nan_for_none(entry) for name, entry in value.items()}
    return math.nan if value is None else value
