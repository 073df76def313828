"""Findings about CMPO alone: its prior policy, its advantages and its model."""

from __future__ import annotations

import math
from collections.abc import Iterator

from deploy.doctor.examined_run import ExaminedRun
from deploy.doctor.findings import DOUBTFUL, WANTED_SHARE, Finding, agreement, balanced
from learner.reporting.red_flags import WARM_UP


def prior(run: ExaminedRun) -> Iterator[Finding]:
    """Whether the prior follows the policy, and whether the advantages differ between actions."""
    if "cmpo" not in run.losses:
        return
    rate, clip = (run.setting(f"trainer.losses.cmpo.{name}") for name in ("prior_ema_rate", "advantage_clip"))
    kl, spread = run.recent("losses", "cmpo", "kl"), run.recent("losses", "cmpo", "adv_std")
    if rate * run.updates < 1:
        text = (
            f"the prior is still the initial network: it averages over {1 / rate:,.0f} updates, and the run has done "
            f"{run.updates:,.0f}; CMPO pulls the policy back to the initial policy"
        )
        yield Finding(wrong=True, topic="cmpo prior", text=text, tries=("trainer.losses.cmpo.prior_ema_rate=0.1",))
    elif kl > clip**2 / 2:
        text = f"cmpo's KL is {kl:.2f} nats, more than any target of CMPO is from the prior: the policy is far from the prior"
        faster = f"trainer.losses.cmpo.prior_ema_rate={min(1.0, 3 * rate):.3g}"
        yield Finding(wrong=True, topic="cmpo prior", text=text, tries=(faster,))
    if run.progress >= WARM_UP and spread == 0:
        text = "cmpo's advantages are equal for all actions (adv_std is 0), so its target is the prior itself"
        yield Finding(wrong=True, topic="cmpo advantages", text=text, tries=("trainer.losses.dynamics.enabled=true",))


def model(run: ExaminedRun) -> Iterator[Finding]:
    """Whether CMPO's model rates actions as their returns do."""
    agreed, share = agreement(run, "cmpo"), run.share("cmpo")
    if not math.isfinite(agreed):
        return
    text = f"CMPO's model and the returns agree on actions by {agreed:.2f} (the correlation of their advantages on fresh data)"
    opposed = agreed < -DOUBTFUL and run.progress >= WARM_UP
    if opposed:
        text += ": the model prefers actions that turn out worse, so CMPO moves the policy the wrong way"
    elif agreed < DOUBTFUL:
        text += (
            ": the model is poor, or one action matters little here (an exact model of LunarLander has 0.04); "
            "with one agent, `oatmill probe` shows which"
        )
    followed = opposed and share > WANTED_SHARE
    yield Finding(wrong=followed, topic="cmpo model", text=text, tries=balanced(run, "cmpo") if followed else ())
