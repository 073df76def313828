"""What is wrong with a run, in the tuning guide's words, and which setting to try next.

The advice is about magnitudes: which loss dominates by value and which by gradient, whether entropy, explained variance and
CMPO's statistics are where they should be, and whether actors or the learner are what the run waits for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deploy.curves import column
from deploy.doctor.examined_run import WINDOW, ExaminedRun, mean
from learner.reporting.red_flags import DOMINATES, ENTROPY_ACTIONS, ENTROPY_HIGH, ENTROPY_LOW, MUESLI_RATIO, WARM_UP

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
MEANINGS = {
    "loss_dominates": f"one loss is over {DOMINATES:g} times the median of the others, by value and by gradient",
    "muesli_ratio": f"muesli_model pushes less than once or over {MUESLI_RATIO[1]:g} times as hard as the policy gradient",
    "entropy_collapsed": "the policy hardly tries anything any more; well where the task is solved, and only there",
    "entropy_high": "a quarter of the budget is spent and the policy is still near random",
    "explained_variance_negative": "the critic predicts worse than a constant, and advantages are mostly noise",
    "loss_spike": "a loss jumped far out of its recent range; the step before may have been too large",
    "non_finite": "updates with a loss or gradient that is not finite were left out",
    "checkpoint_failed": "the last checkpoint could not be written; the run could only go on from an older one",
    "actor_silent": "an actor sends heartbeats and no trajectories, and the run goes on without it; events.jsonl and "
    "`oatmill status` say which, and its log may say why",
}
"""Of the red flags; docs/operations/alerts.md has a section for each of their alerts."""
NOT_ABOUT_LEARNING = ("checkpoint_failed", "actor_silent")
"""Flags that say by themselves that something has to be mended."""


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


def examine(examined: ExaminedRun) -> list[Finding]:
    """All findings about a run, those that need a change first."""
    checks = (ending, dominance, auxiliaries, prior, model, step_size, entropy, critic, bottleneck, red_flags)
    found = [finding for check in checks for finding in check(examined)]
    return sorted(found, key=lambda finding: not finding.wrong)


def ending(examined: ExaminedRun) -> Iterator[Finding]:
    """A run that failed, and updates that were not applied."""
    if examined.trouble:
        yield Finding(wrong=True, topic="run", text=examined.trouble)
    if examined.remark:
        yield Finding(wrong=False, topic="run", text=examined.remark)
    skipped = sum(value for value in column(examined.lines, "skipped_updates") if math.isfinite(value))
    if skipped:
        text = f"{skipped:.0f} updates were not finite and not applied"
        yield Finding(wrong=True, topic="non_finite", text=text, tries=(learning_rate(examined, 0.1),))


def dominance(examined: ExaminedRun) -> Iterator[Finding]:
    """Which loss is the largest by value, and which pushes hardest."""
    values, pushes = ({name: examined.recent("losses", name, kind) for name in examined.losses} for kind in SHARES)
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
    yield Finding(wrong=excess, topic="dominance", text=text, tries=scaled(examined, by_value, 0.1) if excess else ())


SHARES = ("share", "gradient_share")


def auxiliaries(examined: ExaminedRun) -> Iterator[Finding]:
    """Auxiliary losses that push too hard, or not at all."""
    for name in COEFFICIENTS:
        share = examined.recent("losses", name, "gradient_share")
        if share > TOO_MUCH:
            text = f"{name} has {share:.0%} of the gradient on the trunk; 5 to 20 % is what an auxiliary loss should have"
            yield Finding(wrong=True, topic=name, text=text, tries=scaled(examined, name, WANTED_SHARE * (1 - share) / share))
        elif share < TOO_LITTLE:
            text = f"{name} has {share:.2%} of the gradient on the trunk: it is switched off in all but name"
            better_so = name == "cmpo" and agreement(examined) < DOUBTFUL
            yield Finding(wrong=False, topic=name, text=text, tries=() if better_so else scaled(examined, name, 10.0))


def prior(examined: ExaminedRun) -> Iterator[Finding]:
    """CMPO's prior: it must follow the policy, and its advantages must tell actions apart."""
    if "cmpo" not in examined.losses:
        return
    rate, clip = (examined.setting(f"trainer.losses.cmpo.{name}") for name in ("prior_ema_rate", "advantage_clip"))
    kl, spread = examined.recent("losses", "cmpo", "kl"), examined.recent("losses", "cmpo", "adv_std")
    if rate * examined.updates < 1:
        text = (
            f"the prior is still the first network: it averages over {1 / rate:,.0f} updates and the run had "
            f"{examined.updates:,.0f}; CMPO pulls the policy back to where it began"
        )
        yield Finding(wrong=True, topic="cmpo prior", text=text, tries=("trainer.losses.cmpo.prior_ema_rate=0.1",))
    elif kl > clip**2 / 2:
        text = (
            f"cmpo's KL is {kl:.2f} nats, more than its target can lie from the prior: the policy has run away from the prior"
        )
        faster = f"trainer.losses.cmpo.prior_ema_rate={min(1.0, 3 * rate):.3g}"
        yield Finding(wrong=True, topic="cmpo prior", text=text, tries=(faster,))
    if examined.progress >= WARM_UP and spread == 0:
        text = "cmpo's advantages are the same for every action (adv_std 0): its target is the prior"
        yield Finding(wrong=True, topic="cmpo advantages", text=text, tries=("trainer.losses.dynamics.enabled=true",))


def model(examined: ExaminedRun) -> Iterator[Finding]:
    """Whether what CMPO's model says of the actions is what their returns say."""
    agreed, share = agreement(examined), examined.recent("losses", "cmpo", "gradient_share")
    if not math.isfinite(agreed):
        return
    text = f"CMPO's model and the returns agree on actions by {agreed:.2f} (the correlation of their advantages)"
    doubtful = agreed < DOUBTFUL and examined.progress >= WARM_UP
    if doubtful:
        text += ": the model does not tell them apart, and CMPO tilts the policy by its errors"
    followed = doubtful and share > WANTED_SHARE
    yield Finding(wrong=followed, topic="cmpo model", text=text, tries=scaled(examined, "cmpo", 0.1) if followed else ())


def agreement(examined: ExaminedRun) -> float:
    """Of CMPO's advantages with the returns'; NaN where there is no model."""
    return examined.recent("losses", "cmpo", "advantage_agreement")


def step_size(examined: ExaminedRun) -> Iterator[Finding]:
    """How far a learner step moves the policy."""
    values = [value for value in column(examined.lines, "approx_kl") if math.isfinite(value)]
    if values and max(values) > LARGE_KL:
        text = f"a learner step moved the policy by up to {max(values):.2f} nats (approx_kl); below 0.02 is usual"
        tries = (learning_rate(examined, 0.1), "trainer.losses.ppo_actor.target_kl=0.02")
        yield Finding(wrong=True, topic="learning rate", text=text, tries=tries)


def entropy(examined: ExaminedRun) -> Iterator[Finding]:
    """Whether the policy still tries things, and has begun to prefer some."""
    now, nats = examined.recent("entropy", "fraction"), examined.recent("entropy", "nats")
    where = f"entropy is {nats:.2f} nats, {now:.0%} of uniform"
    bonus = examined.setting("trainer.losses.ppo_actor.ent_coef")
    if now < LOW:
        more = f"trainer.losses.ppo_actor.ent_coef={max(0.01, 3 * bonus):.3g}"
        text = f"{where}: the policy has collapsed (below {LOW:.0%})"
        yield Finding(wrong=True, topic="entropy", text=text, tries=(more,))
    elif now > HIGH and examined.progress > 1 - WARM_UP and not improves(examined):
        less = f"trainer.losses.ppo_actor.ent_coef={bonus / 3:.3g}"
        text = f"{where} at the end of the budget and the return does not rise: the policy prefers nothing (above {HIGH:.0%})"
        yield Finding(wrong=True, topic="entropy", text=text, tries=(less,))
    else:
        yield Finding(wrong=False, topic="entropy", text=where)


def critic(examined: ExaminedRun) -> Iterator[Finding]:
    """Whether the value head explains the returns."""
    now = examined.recent("explained_variance")
    flagged = sum("explained_variance_negative" in line.get("red_flags", ()) for line in examined.lines[-WINDOW:])
    if flagged > len(examined.lines[-WINDOW:]) / 2:
        scale = f"trainer.reward_scale={examined.setting('trainer.reward_scale') / 10:.3g}"
        text = f"explained variance is {now:.2f}: the critic does worse than a constant"
        yield Finding(wrong=True, topic="critic", text=text, tries=(learning_rate(examined, 1 / 3), scale))
    elif math.isfinite(now):
        yield Finding(wrong=False, topic="critic", text=f"explained variance is {now:.2f}")


def bottleneck(examined: ExaminedRun) -> Iterator[Finding]:
    """Whether the learner waits for actors, or they for it."""
    waits = mean(column(examined.lines[1:][-WINDOW:], "wait_fraction"))  # the first batch waits for the actors to start
    count, envs = (examined.setting(f"actors.{name}") for name in ("count", "envs_per_actor"))
    if waits > STARVED:
        text = f"the learner waits for data {waits:.0%} of its time: {count:.0f} actor(s) are the bottleneck"
        tries = (f"actors.envs_per_actor={4 * envs:.0f}", f"actors.count={count + 1:.0f}")
        yield Finding(wrong=True, topic="bottleneck", text=text, tries=tries)
    elif math.isfinite(waits):
        who = "the learner is the bottleneck, as it should be" if waits < BUSY else "neither side waits for long"
        yield Finding(wrong=False, topic="bottleneck", text=f"the learner waits for data {waits:.0%} of its time: {who}")


def red_flags(examined: ExaminedRun) -> Iterator[Finding]:
    """The red flags of the last reports, and what each one means."""
    reports = examined.lines[-WINDOW:]
    raised = Counter(flag for line in reports for flag in line.get("red_flags", ()))
    for flag, times in raised.items():
        text = f"{flag} in {times} of the last {len(reports)} reports: {MEANINGS.get(flag, 'not known to this version')}"
        yield Finding(wrong=flag in NOT_ABOUT_LEARNING, topic="red flag", text=text)


def improves(examined: ExaminedRun) -> bool:
    """Whether the return rose in the second half of what was reported."""
    means = [value for value in column(examined.lines, "episode_return", "mean") if math.isfinite(value)]
    half = len(means) // 2
    return half > 0 and means[-1] > means[half]


def scaled(examined: ExaminedRun, name: str, factor: float) -> tuple[str, ...]:
    """A loss's coefficients times a factor; none for a coefficient that is 0 or at its bound already."""
    limit = 1.0 if name == "dynamics" else math.inf
    now = {path: examined.setting(path) for path in (f"trainer.losses.{name}.{field}" for field in COEFFICIENTS[name])}
    wanted = {path: (was, min(limit, was * factor)) for path, was in now.items()}
    return tuple(f"{path}={to:.2g}" for path, (was, to) in wanted.items() if was != to)


def learning_rate(examined: ExaminedRun, factor: float) -> str:
    """The learning rate times a factor."""
    return f"trainer.optimizer.learning_rate={examined.setting('trainer.optimizer.learning_rate') * factor:.2g}"


def largest(shares: Mapping[str, float]) -> str:
    """The name of the largest; empty where none is known."""
    known = {name: share for name, share in shares.items() if math.isfinite(share)}
    return max(known, key=lambda name: known[name]) if known else ""
