"""What is wrong with a run, in the tuning guide's words, and which setting to try next.

The advice is about magnitudes: which loss dominates by value and which by gradient, whether entropy, explained variance and
CMPO's statistics are where they should be, and whether actors or the learner are what the run waits for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from deploy.curves import Lines, column, read_lines
from learner.redflags import ENTROPY_ACTIONS, ENTROPY_HIGH, ENTROPY_LOW, WARM_UP
from recipes.run_folder import read_json
from recipes.settings import RunSettings, read_config

WINDOW = 20
"""Reports at the end of the run that a mean is taken over."""
COEFFICIENTS = {
    "cmpo": ("kl_coef",),
    "dynamics": ("returns_pred_coef", "reward_pred_coef"),
    "muesli_model": ("policy_pred_coef",),
}
WANTED_SHARE = 0.1
"""What an auxiliary loss should have of the gradient on the trunk: 5 to 20 %."""
TOO_MUCH, TOO_LITTLE = 0.5, 0.01
DOUBTFUL = 0.05
"""A correlation of CMPO's advantages with the returns' below which its model does not tell actions apart."""
BY_VALUE = 0.9
LARGE_KL = 0.1
"""Of one learner step, in nats; healthy PPO stays below 0.02."""
STARVED, BUSY = 0.4, 0.05
"""Parts of its time that a learner waits for data."""
LOW, HIGH = (nats / math.log(ENTROPY_ACTIONS) for nats in (ENTROPY_LOW, ENTROPY_HIGH))


@dataclass(frozen=True)
class Finding:
    """One thing to know about a run.

    Attributes:
        wrong: whether it needs to be changed; what is not wrong is said for information.
        topic: what it is about.
        text: what was found, and what it means.
        tries: settings to try next, as `key=value`.
    """

    wrong: bool
    topic: str
    text: str
    tries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Patient:
    """A run as the doctor looks at it.

    Attributes:
        lines: of metrics.jsonl.
        settings: that it ran with.
        error: why it failed; empty if it did not.
    """

    lines: Lines
    settings: RunSettings
    error: str

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
        return float(self.lines[-1]["env_steps"]) / self.settings.trainer.total_timesteps


def examine(run_dir: Path) -> list[Finding]:
    """All findings about a run, those that need a change first.

    Raises:
        UserError: if the folder holds no run, or one that has reported nothing.
    """
    lines = read_lines(run_dir)
    summary = read_json(run_dir / "summary.json")
    patient = Patient(lines, read_config(run_dir / "config.yaml"), str(summary.get("error") or ""))
    checks = (ending, dominance, auxiliaries, prior, model, step_size, entropy, critic, bottleneck)
    found = [finding for check in checks for finding in check(patient)]
    return sorted(found, key=lambda finding: not finding.wrong)


def ending(patient: Patient) -> Iterator[Finding]:
    """A run that failed, and updates that were not applied."""
    if patient.error:
        yield Finding(wrong=True, topic="run", text=f"the run failed: {patient.error}")
    skipped = sum(value for value in column(patient.lines, "skipped_updates") if math.isfinite(value))
    if skipped:
        text = f"{skipped:.0f} updates were not finite and not applied"
        yield Finding(wrong=True, topic="non_finite", text=text, tries=(learning_rate(patient, 0.1),))


def dominance(patient: Patient) -> Iterator[Finding]:
    """Which loss is the largest by value, and which pushes hardest."""
    values, pushes = ({name: patient.recent("losses", name, kind) for name in patient.losses} for kind in SHARES)
    by_value, by_gradient = largest(values), largest(pushes)
    if not by_gradient:
        return
    text = (
        f"{by_value} dominates by value ({values[by_value]:.0%} of the objective's magnitude), {by_gradient} by gradient "
        f"({pushes[by_gradient]:.0%} of the push on the trunk)"
    )
    excess = by_value in COEFFICIENTS and values[by_value] > BY_VALUE
    if excess and by_value != by_gradient:
        text += f"; {by_value} pushes {pushes[by_value]:.1%}: most of its value is a constant that nothing trains away"
    yield Finding(wrong=excess, topic="dominance", text=text, tries=scaled(patient, by_value, 0.1) if excess else ())


SHARES = ("share", "gradient_share")


def auxiliaries(patient: Patient) -> Iterator[Finding]:
    """Auxiliary losses that push too hard, or not at all."""
    for name in COEFFICIENTS:
        share = patient.recent("losses", name, "gradient_share")
        if share > TOO_MUCH:
            text = f"{name} has {share:.0%} of the gradient on the trunk; 5 to 20 % is what an auxiliary loss should have"
            yield Finding(wrong=True, topic=name, text=text, tries=scaled(patient, name, WANTED_SHARE * (1 - share) / share))
        elif share < TOO_LITTLE:
            text = f"{name} has {share:.2%} of the gradient on the trunk: it is switched off in all but name"
            better_so = name == "cmpo" and agreement(patient) < DOUBTFUL
            yield Finding(wrong=False, topic=name, text=text, tries=() if better_so else scaled(patient, name, 10.0))


def prior(patient: Patient) -> Iterator[Finding]:
    """CMPO's prior: it must follow the policy, and its advantages must tell actions apart."""
    cmpo = patient.settings.trainer.losses.cmpo
    if "cmpo" not in patient.losses:
        return
    updates = sum(value for value in column(patient.lines, "updates") if math.isfinite(value))
    kl, spread = patient.recent("losses", "cmpo", "kl"), patient.recent("losses", "cmpo", "adv_std")
    if cmpo.prior_ema_rate * updates < 1:
        text = (
            f"the prior is still the first network: it averages over {1 / cmpo.prior_ema_rate:,.0f} updates and the run had "
            f"{updates:,.0f}; CMPO pulls the policy back to where it began"
        )
        yield Finding(wrong=True, topic="cmpo prior", text=text, tries=("trainer.losses.cmpo.prior_ema_rate=0.1",))
    elif kl > cmpo.advantage_clip**2 / 2:
        text = (
            f"cmpo's KL is {kl:.2f} nats, more than its target can lie from the prior: the policy has run away from the prior"
        )
        rate = f"trainer.losses.cmpo.prior_ema_rate={min(1.0, 3 * cmpo.prior_ema_rate):.3g}"
        yield Finding(wrong=True, topic="cmpo prior", text=text, tries=(rate,))
    if patient.progress >= WARM_UP and spread == 0:
        text = "cmpo's advantages are the same for every action (adv_std 0): its target is the prior"
        yield Finding(wrong=True, topic="cmpo advantages", text=text, tries=("trainer.losses.dynamics.enabled=true",))


def model(patient: Patient) -> Iterator[Finding]:
    """Whether what CMPO's model says of the actions is what their returns say."""
    agreed, share = agreement(patient), patient.recent("losses", "cmpo", "gradient_share")
    if not math.isfinite(agreed):
        return
    text = f"CMPO's model and the returns agree on actions by {agreed:.2f} (the correlation of their advantages)"
    doubtful = agreed < DOUBTFUL and patient.progress >= WARM_UP
    if doubtful:
        text += ": the model does not tell them apart, and CMPO tilts the policy by its errors"
    followed = doubtful and share > WANTED_SHARE
    yield Finding(wrong=followed, topic="cmpo model", text=text, tries=scaled(patient, "cmpo", 0.1) if followed else ())


def agreement(patient: Patient) -> float:
    """Of CMPO's advantages with the returns'; NaN where there is no model."""
    return patient.recent("losses", "cmpo", "advantage_agreement")


def step_size(patient: Patient) -> Iterator[Finding]:
    """How far a learner step moves the policy."""
    values = [value for value in column(patient.lines, "approx_kl") if math.isfinite(value)]
    if values and max(values) > LARGE_KL:
        text = f"a learner step moved the policy by up to {max(values):.2f} nats (approx_kl); below 0.02 is usual"
        tries = (learning_rate(patient, 0.1), "trainer.losses.ppo_actor.target_kl=0.02")
        yield Finding(wrong=True, topic="learning rate", text=text, tries=tries)


def entropy(patient: Patient) -> Iterator[Finding]:
    """Whether the policy still tries things, and has begun to prefer some."""
    now, nats = patient.recent("entropy", "fraction"), patient.recent("entropy", "nats")
    where = f"entropy is {nats:.2f} nats, {now:.0%} of uniform"
    bonus = patient.settings.trainer.losses.ppo_actor.ent_coef
    if now < LOW:
        more = f"trainer.losses.ppo_actor.ent_coef={max(0.01, 3 * bonus):.3g}"
        text = f"{where}: the policy has collapsed (below {LOW:.0%})"
        yield Finding(wrong=True, topic="entropy", text=text, tries=(more,))
    elif now > HIGH and patient.progress > 1 - WARM_UP and not improves(patient):
        less = f"trainer.losses.ppo_actor.ent_coef={bonus / 3:.3g}"
        text = f"{where} at the end of the budget and the return does not rise: the policy prefers nothing (above {HIGH:.0%})"
        yield Finding(wrong=True, topic="entropy", text=text, tries=(less,))
    else:
        yield Finding(wrong=False, topic="entropy", text=where)


def critic(patient: Patient) -> Iterator[Finding]:
    """Whether the value head explains the returns."""
    now = patient.recent("explained_variance")
    flagged = sum("explained_variance_negative" in line.get("red_flags", ()) for line in patient.lines[-WINDOW:])
    if flagged > len(patient.lines[-WINDOW:]) / 2:
        scale = f"trainer.reward_scale={patient.settings.trainer.reward_scale / 10:.3g}"
        text = f"explained variance is {now:.2f}: the critic does worse than a constant"
        yield Finding(wrong=True, topic="critic", text=text, tries=(learning_rate(patient, 1 / 3), scale))
    elif math.isfinite(now):
        yield Finding(wrong=False, topic="critic", text=f"explained variance is {now:.2f}")


def bottleneck(patient: Patient) -> Iterator[Finding]:
    """Whether the learner waits for actors, or they for it."""
    waits = mean(column(patient.lines[1:][-WINDOW:], "wait_fraction"))  # the first batch waits for the actors to start
    actors = patient.settings.actors
    if waits > STARVED:
        text = f"the learner waits for data {waits:.0%} of its time: {actors.count} actor(s) are the bottleneck"
        tries = (f"actors.envs_per_actor={4 * actors.envs_per_actor}", f"actors.count={actors.count + 1}")
        yield Finding(wrong=True, topic="bottleneck", text=text, tries=tries)
    elif math.isfinite(waits):
        who = "the learner is the bottleneck, as it should be" if waits < BUSY else "neither side waits for long"
        yield Finding(wrong=False, topic="bottleneck", text=f"the learner waits for data {waits:.0%} of its time: {who}")


def improves(patient: Patient) -> bool:
    """Whether the return rose in the second half of what was reported."""
    means = [value for value in column(patient.lines, "episode_return", "mean") if math.isfinite(value)]
    half = len(means) // 2
    return half > 0 and means[-1] > means[half]


def scaled(patient: Patient, name: str, factor: float) -> tuple[str, ...]:
    """A loss's coefficients times a factor; none for a coefficient that is 0 or at its bound already."""
    settings = getattr(patient.settings.trainer.losses, name)
    limit = 1.0 if name == "dynamics" else math.inf
    wanted = {field: (getattr(settings, field), min(limit, getattr(settings, field) * factor)) for field in COEFFICIENTS[name]}
    return tuple(f"trainer.losses.{name}.{field}={to:.2g}" for field, (was, to) in wanted.items() if was != to)


def learning_rate(patient: Patient, factor: float) -> str:
    """The learning rate times a factor."""
    return f"trainer.optimizer.learning_rate={patient.settings.trainer.optimizer.learning_rate * factor:.2g}"


def largest(shares: Mapping[str, float]) -> str:
    """The name of the largest; empty where none is known."""
    known = {name: share for name, share in shares.items() if math.isfinite(share)}
    return max(known, key=lambda name: known[name]) if known else ""


def mean(values: Sequence[float]) -> float:
    """The mean of the finite ones; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan
