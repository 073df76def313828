"""The measurements of learner steps: turns sums on the device into named numbers, with one transfer per report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from learner.loss import OWN_NUMBERS
from learner.loss_descriptor import BUILT_IN, LossDescriptor
from learner.ranks.reduce import Reducer
from learner.update.sums import Key
from learner.update.updater import Record
from protocol.data.trajectory import Array


@dataclass(frozen=True)
class TermReport:
    """One term of a loss: its mean over all updates since the last report."""

    raw: float
    coef: float

    @property
    def weighted(self) -> float:
        """The term's contribution to the objective."""
        return self.raw * self.coef


@dataclass(frozen=True)
class LossReport:
    """One loss over all updates since the last report.

    Attributes:
        terms: the loss's terms by name.
        statistics: the loss's statistics by name.
        share: the fraction of the sum of all losses' magnitudes, 0..1.
        gradient_norm: the norm of the weighted gradient on the trunk, before clipping; NaN until first
            measured.
        gradient_share: the fraction of the sum of all losses' gradient norms, 0..1.
        gradient_cosine: the cosine with the sum of all losses' gradients.
    """

    terms: Mapping[str, TermReport]
    statistics: Mapping[str, float]
    share: float = math.nan
    gradient_norm: float = math.nan
    gradient_share: float = math.nan
    gradient_cosine: float = math.nan

    @property
    def weighted(self) -> float:
        """The loss's contribution to the objective."""
        return sum(term.weighted for term in self.terms.values())

    @property
    def coef(self) -> float:
        """The largest magnitude among the terms' coefficients."""
        return max((abs(term.coef) for term in self.terms.values()), default=0.0)

    @property
    def raw(self) -> float:
        """The loss divided by `coef`, so that weighted = coef * raw."""
        return self.weighted / self.coef if self.coef else sum(term.raw for term in self.terms.values())

    def value(self, name: str) -> float:
        """A term's mean or a statistic; NaN if the loss has none of that name."""
        return self.terms[name].raw if name in self.terms else self.statistics.get(name, math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Convert for metrics.jsonl and summary.json: one flat mapping, and the details in `terms`."""
        own = {name: getattr(self, name) for name in OWN_NUMBERS}
        terms = {name: {"raw": term.raw, "coef": term.coef, "weighted": term.weighted} for name, term in self.terms.items()}
        return own | {name: term.raw for name, term in self.terms.items()} | dict(self.statistics) | {"terms": terms}


@dataclass(frozen=True)
class StepReport:
    """All measurements since the last report, over all ranks.

    Attributes:
        losses: the losses by name, in order.
        statistics: statistics of nodes that are not losses, as `node.name`.
        update_means: each term's mean in each update that has it, for exact counters.
        gradient_norm: the norm of the total gradient before clipping, averaged over updates.
        updates: the number of updates.
        skipped: the number of skipped updates.
        nonfinite: the losses that were not finite, each with the number of such updates.
        gradients_measured: whether the losses' gradients were measured since the last report.
        stopped_early: the number of learner steps that target_kl ended before their last epoch.
        descriptors: the losses' descriptors by name.
    """

    losses: Mapping[str, LossReport]
    statistics: Mapping[str, float]
    update_means: Mapping[Key, Array]
    gradient_norm: float
    updates: int
    skipped: int
    gradients_measured: bool = False
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    stopped_early: int = 0
    descriptors: Mapping[str, LossDescriptor] = field(default_factory=lambda: BUILT_IN)

    @property
    def policy_loss(self) -> str:
        """The name of the policy-gradient loss; empty if there is none."""
        policies = (name for name, descriptor in self.descriptors.items() if descriptor.role == "policy")
        return next((name for name in policies if name in self.losses), "")

    def weighted_magnitude(self, name: str) -> float:
        """The magnitude of a weighted loss; for a cross-entropy that of its weighted KL.

        The difference, the target's entropy, has no gradient.
        """
        loss, descriptor = self.losses[name], self.descriptors.get(name)
        kl = loss.statistics.get(descriptor.kl) if descriptor else None
        return abs(loss.weighted if kl is None else loss.coef * kl)

    def policy(self, name: str) -> float:
        """A number of the policy-gradient loss, such as `entropy` or `approx_kl`; NaN if missing."""
        loss = self.losses.get(self.policy_loss)
        return loss.value(name) if loss else math.nan


@dataclass
class Measurements:
    """The measurements since the last report: collects the records of learner steps and turns them into a report.

    Args:
        losses: the losses' names in order.
        reducer: sums over ranks.
        descriptors: the losses' descriptors by name.
    """

    losses: Sequence[str]
    reducer: Reducer
    descriptors: Mapping[str, LossDescriptor] = field(default_factory=lambda: BUILT_IN)
    records: list[Record] = field(default_factory=list)
    gradients: Array | None = None

    def add(self, record: Record) -> None:
        """Add the record of one learner step."""
        self.records.append(record)

    def report(self, coefs: Mapping[Key, float]) -> StepReport:
        """Reduce all records over ranks, copy the result to the host in one transfer, and clear them.

        Args:
            coefs: the coefficient of each term; keys without one are statistics.
        """
        records, self.records = self.records, []
        last = records[-1]
        sums = torch.stack([update for record in records for update in record.sums])
        gradients = next((record.gradients for record in reversed(records) if record.gradients is not None), None)
        parts = [sums.flatten(), torch.zeros(0) if last.batch_sums is None else last.batch_sums.flatten()]
        reduced = self.reducer.sum(torch.cat([part.to(sums) for part in parts]))
        norms = torch.stack([norm for record in records for norm in record.norms])
        own = [norms, torch.zeros(0).to(sums) if gradients is None else gradients.flatten()]
        host = torch.cat([reduced, *own]).cpu().numpy().astype(np.float64)
        split = np.split(host, np.cumsum([sums.numel(), reduced.numel() - sums.numel(), norms.numel()]))
        if gradients is not None:
            self.gradients = split[3].reshape(-1, 2)
        by_update = split[0].reshape(tuple(sums.shape))
        counted = by_update[:, 1] > 0  # an update may leave out a loss
        columns = zip(last.keys, masked_means(by_update).T, counted.T, strict=True)
        by_key = {key: means[there] for key, means, there in columns}
        batch_statistics = named_batch_means(last.batch_keys, split[1])
        return StepReport(
            losses=self.loss_reports(by_key, batch_statistics, coefs),
            statistics={f"{n}.{k}": v for (n, k), v in batch_statistics.items() if n not in self.losses},
            update_means={key: values for key, values in by_key.items() if key in coefs},
            gradient_norm=float(np.mean(split[2])),
            updates=len(split[2]),
            skipped=sum(record.skipped for record in records),
            gradients_measured=gradients is not None,
            nonfinite=sum((record.nonfinite for record in records), Counter()),
            stopped_early=sum(record.stopped_early for record in records),
            descriptors=self.descriptors,
        )

    def loss_reports(
        self, updates: Mapping[Key, Array], batch: Mapping[Key, float], coefs: Mapping[Key, float]
    ) -> dict[str, LossReport]:
        """The report of every loss."""
        plain = {}
        for loss in self.losses:
            terms = {
                k: TermReport(float(v.mean()) if v.size else math.nan, coefs[n, k])
                for (n, k), v in updates.items()
                if (n, k) in coefs and n == loss
            }
            beside = {k: finite_mean(v) for (n, k), v in updates.items() if (n, k) not in coefs and n == loss}
            beside |= {k: v for (n, k), v in batch.items() if n == loss}
            plain[loss] = LossReport(terms, beside)
        total = sum(abs(loss.weighted) for loss in plain.values())
        gradients = self.gradients if self.gradients is not None else np.full((len(plain), 2), np.nan)
        norms = gradients[:, 0].sum()
        return {
            name: LossReport(
                loss.terms,
                loss.statistics,
                share=abs(loss.weighted) / total if total else math.nan,
                gradient_norm=float(norm),
                gradient_share=float(norm / norms) if norms else math.nan,
                gradient_cosine=float(cosine),
            )
            for (name, loss), (norm, cosine) in zip(plain.items(), gradients, strict=True)
        }


def masked_means(sums: Array) -> Array:
    """Means `[updates, n]` from sums and counts `[updates, 2, n]`; NaN if a count is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Array = sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], np.nan)
    return means


def named_batch_means(keys: Sequence[Key], flat: Array) -> dict[Key, float]:
    """The means of statistics of the whole batch, by key."""
    if not keys:
        return {}
    means = masked_means(flat.reshape(1, 2, len(keys)))[0]
    return dict(zip(keys, (float(mean) for mean in means), strict=True))


def finite_mean(values: Array) -> float:
    """The mean of all values that are not NaN; NaN if there are none."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else math.nan


def explained_variance(statistics: Mapping[str, float]) -> tuple[float, float]:
    """1 - Var(R - V) / Var(R), and Var(R), from the returns node's moments; NaN if Var(R) is 0."""
    names = ("target", "target_squared", "error", "error_squared")
    target, target_squared, error, error_squared = (statistics.get(f"returns.{name}", math.nan) for name in names)
    variance = target_squared - target**2
    if not variance > 0:
        return math.nan, variance
    return 1 - (error_squared - error**2) / variance, variance


def plain(value: Any) -> Any:
    """Convert a structure for JSON: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
