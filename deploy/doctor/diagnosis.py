"""What is wrong with a run, in the terms of the tuning guide, and which setting to try next.

It looks at what has happened to processes and data, at which loss dominates by value and by gradient, at entropy, explained
variance and CMPO's statistics, and at whether the actors or the learner limit the speed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from deploy.curves import column
from deploy.doctor import cmpo
from deploy.doctor.bottleneck import bottleneck
from deploy.doctor.examined_run import WINDOW, ExaminedRun
from deploy.doctor.findings import DOUBTFUL, Finding, agreement, balanced
from deploy.doctor.incidents import incidents, ledger
from learner.loss_descriptor import MUESLI_RATIO
from learner.reporting.red_flags import DOMINATES, ENTROPY_ACTIONS, ENTROPY_HIGH, ENTROPY_LOW, WARM_UP

TOO_MUCH, TOO_LITTLE = 0.5, 0.01
BY_VALUE = 0.9
LARGE_KL = 0.1
"""KL of one learner step, in nats; healthy PPO stays below 0.02."""
SHORT = 1 / 3
"""Of the steps that a return would use if the newest policy had acted."""
LOW, HIGH = (nats / math.log(ENTROPY_ACTIONS) for nats in (ENTROPY_LOW, ENTROPY_HIGH))
MEANINGS = {
    "loss_dominates": f"one loss is over {DOMINATES:g} times the median of the others, by value and by gradient",
    "muesli_ratio": f"a loss's gradient is over {MUESLI_RATIO[1]:g} times the policy gradient, so it overrides PPO",
    "entropy_collapsed": "the policy has almost stopped exploring, and the return has not risen",
    "entropy_high": "a quarter of the budget is spent, the policy is still almost random, and the return has not risen",
    "explained_variance_negative": "the critic predicts worse than a constant, so advantages are mostly noise",
    "loss_spike": "a loss jumped far out of its recent range several times, and the return fell or a step was too large",
    "non_finite": "some updates were skipped because a loss or gradient was not finite",
    "checkpoint_failed": "the last checkpoint could not be written; after a crash the run would resume from an older one",
    "actor_silent": "an actor sends heartbeats but no trajectories, and the run continues without it; see events.jsonl or "
    "`oatmill status` for its number, and its log for the reason",
}
"""What each red flag means; docs/operations/alerts.md has a section for each of their alerts."""
NOT_ABOUT_LEARNING = ("checkpoint_failed", "actor_silent")
"""Flags that always need a repair. Each has an event of the same name."""


def examine(run: ExaminedRun) -> list[Finding]:
    """All findings about a run; those that need a change come first."""
    always = (ending, incidents, ledger)
    about_reports = (
        dominance,
        auxiliaries,
        cmpo.prior,
        cmpo.model,
        step_size,
        rewards,
        entropy,
        critic,
        returns,
        bottleneck,
        red_flags,
    )
    checks = (*always, *about_reports) if run.lines else always
    found = [finding for check in checks for finding in check(run)]
    return sorted(found, key=lambda finding: not finding.wrong)


def ending(run: ExaminedRun) -> Iterator[Finding]:
    """Whether the run failed or skipped updates."""
    if run.trouble:
        yield Finding(wrong=True, topic="run", text=run.trouble)
    if run.remark:
        yield Finding(wrong=False, topic="run", text=run.remark)
    skipped = sum(value for value in column(run.lines, "skipped_updates") if math.isfinite(value))
    if skipped:
        text = f"{skipped:.0f} updates were skipped because a loss or gradient was not finite"
        yield Finding(wrong=True, topic="non_finite", text=text, tries=(learning_rate(run, 0.1),))


def dominance(run: ExaminedRun) -> Iterator[Finding]:
    """Which loss has the largest value, and which has the largest gradient."""
    values, pushes = ({name: run.share(name, kind) for name in run.losses} for kind in SHARES)
    by_value, by_gradient = largest(values), largest(pushes)
    if not by_gradient:
        return
    text = (
        f"{by_value} is largest by value ({values[by_value]:.0%} of the objective), {by_gradient} by gradient "
        f"({pushes[by_gradient]:.0%} of the gradient on the trunk)"
    )
    large = bool(by_value) and run.descriptors[by_value].auxiliary and values[by_value] > BY_VALUE
    excess = large and pushes[by_value] > TOO_MUCH
    if large and not excess:
        text += f"; {by_value} has only {pushes[by_value]:.1%} of the gradient: most of its value is a constant"
    yield Finding(wrong=excess, topic="dominance", text=text, tries=balanced(run, by_value) if excess else ())


SHARES = ("share", "gradient_share")


def auxiliaries(run: ExaminedRun) -> Iterator[Finding]:
    """Auxiliary losses whose gradient is too large, or too small to matter."""
    for name in (name for name, descriptor in run.descriptors.items() if descriptor.auxiliary):
        share = run.share(name)
        if share > TOO_MUCH:
            text = f"{name} has {share:.0%} of the gradient on the trunk; an auxiliary loss should have 5 to 20 %"
            yield Finding(wrong=True, topic=name, text=text, tries=balanced(run, name))
        elif share < TOO_LITTLE:
            text = f"{name} has {share:.2%} of the gradient on the trunk: it has almost no effect on training"
            harmful = agreement(run, name) < DOUBTFUL
            yield Finding(wrong=False, topic=name, text=text, tries=() if harmful else balanced(run, name))


def step_size(run: ExaminedRun) -> Iterator[Finding]:
    """How much one learner step changes the policy."""
    values = [value for value in column(run.lines, "approx_kl") if math.isfinite(value)]
    if values and max(values) > LARGE_KL:
        text = f"a learner step changed the policy by up to {max(values):.2g} nats (approx_kl); usual is below 0.02"
        if run.thrives:
            yield Finding(wrong=False, topic="learning rate", text=f"{text}; the return is near its best, so it did no harm")
            return
        limit = ("trainer.losses.ppo_actor.target_kl=0.02",) if policy_loss(run) == "ppo_actor" else ()
        yield Finding(wrong=True, topic="learning rate", text=text, tries=(learning_rate(run, 0.1), *limit))


def policy_loss(run: ExaminedRun) -> str:
    """The loss that trains the policy."""
    return "muesli_pg" if run.setting("trainer.losses.muesli_pg.enabled") == 1 else "ppo_actor"


def rewards(run: ExaminedRun) -> Iterator[Finding]:
    """Whether every episode had the same return, and the policy is still random."""
    if all_alike(run) and not run.recent("entropy", "fraction") <= HIGH:
        text = (
            f"every episode had a return of {run.trend.first:g}, so nothing tells good actions from bad ones; actions that "
            "last longer, or rewards for parts of the task, may change that"
        )
        skip = run.setting("env.frame_skip")
        tries = (f"env.frame_skip={4 * skip:g}",) if math.isfinite(skip) else ()
        yield Finding(wrong=True, topic="rewards", text=text, tries=tries)


def all_alike(run: ExaminedRun) -> bool:
    """Whether enough episodes have ended and all had the same return; from Prometheus, this cannot be known."""
    trend = run.trend
    return run.folder is not None and math.isfinite(trend.first) and trend.varied == 0 and not trend.balanced


def entropy(run: ExaminedRun) -> Iterator[Finding]:
    """Whether the policy still explores, and whether it has started to prefer some actions."""
    now, nats = run.recent("entropy", "fraction"), run.recent("entropy", "nats")
    # The entropy of a continuous policy is no fraction of a uniform one's.
    where = f"entropy is {nats:.2f} nats" + (f", {now:.0%} of uniform" if math.isfinite(now) else "")
    path = f"trainer.losses.{policy_loss(run)}.ent_coef"
    bonus = run.setting(path)
    if run.trend.balanced:
        text = f"{where}; one agent wins what another one loses, so the return does not tell whether this is too little"
        yield Finding(wrong=False, topic="entropy", text=text)
    elif now < LOW and not run.thrives:
        more = f"{path}={max(0.01, 3 * bonus):.3g}"
        text = f"{where}: the policy has collapsed (below {LOW:.0%})"
        yield Finding(wrong=True, topic="entropy", text=text, tries=(more,))
    elif now > HIGH and run.progress > 1 - WARM_UP and not (run.thrives or improves(run) or all_alike(run)):
        less = (f"{path}={bonus / 3:.3g}",) if bonus > 0 else ()
        text = f"{where} at the end of the budget, and the return does not rise: the policy is still random (above {HIGH:.0%})"
        yield Finding(wrong=True, topic="entropy", text=text, tries=less)
    else:
        fine = "; the return is near its best, so the policy is sure of its actions" if now < LOW else ""
        yield Finding(wrong=False, topic="entropy", text=where + fine)


def critic(run: ExaminedRun) -> Iterator[Finding]:
    """Whether the value head explains the returns."""
    now = run.recent("explained_variance")
    flagged = sum("explained_variance_negative" in line.get("red_flags", ()) for line in run.lines[-WINDOW:])
    if flagged > len(run.lines[-WINDOW:]) / 2:
        scale = f"trainer.reward_scale={run.setting('trainer.reward_scale') / 10:.3g}"
        text = f"explained variance is {now:.2f}: the critic predicts worse than a constant"
        yield Finding(wrong=True, topic="critic", text=text, tries=(learning_rate(run, 1 / 3), scale))
    elif math.isfinite(now):
        yield Finding(wrong=False, topic="critic", text=f"explained variance is {now:.2f}")


def returns(run: ExaminedRun) -> Iterator[Finding]:
    """How many steps a return uses, of those that it would use if the newest policy had acted."""
    meant = run.recent("return_steps", "on_policy")
    used = {data: run.recent("return_steps", data) for data in ("fresh", "replayed")}
    known = {data: steps for data, steps in used.items() if math.isfinite(steps)}
    if not known or not math.isfinite(meant):
        return
    text = "returns use " + " and ".join(f"{steps:.1f} steps of {data} data" for data, steps in known.items())
    short = known.get("fresh", meant) < SHORT * meant
    why = ", because the policy has moved too far since its data was collected" if short else ""
    tries = ("actors.synchronous=true",) if short else ()
    yield Finding(wrong=short, topic="returns", text=f"{text} ({meant:.1f} with on-policy data){why}", tries=tries)


def red_flags(run: ExaminedRun) -> Iterator[Finding]:
    """The red flags of the last reports, and what each one means."""
    reports, said = run.lines[-WINDOW:], {event.get("event") for event in run.events}
    raised = Counter(flag for line in reports for flag in line.get("red_flags", ()))
    for flag, times in raised.items():
        text = f"{flag} in {times} of the last {len(reports)} reports: {MEANINGS.get(flag, 'unknown to this version')}"
        yield Finding(wrong=flag in NOT_ABOUT_LEARNING and flag not in said, topic="red flag", text=text)


def improves(run: ExaminedRun) -> bool:
    """Whether the return rose in the second half of the reports."""
    means = [value for value in column(run.lines, "episode_return", "mean") if math.isfinite(value)]
    half = len(means) // 2
    return half > 0 and means[-1] > means[half]


def learning_rate(run: ExaminedRun, factor: float) -> str:
    """The learning rate times a factor."""
    return f"trainer.optimizer.learning_rate={run.setting('trainer.optimizer.learning_rate') * factor:.2g}"


def largest(shares: Mapping[str, float]) -> str:
    """The name of the largest; empty where none is known."""
    known = {name: share for name, share in shares.items() if math.isfinite(share)}
    return max(known, key=lambda name: known[name]) if known else ""
