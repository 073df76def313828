"""A comparison in words: what its seeds can tell apart, what they cannot, and which arm is another one by name only."""

from __future__ import annotations

import math

from deploy.comparison.results import Against, ArmResult, Results
from deploy.comparison.statistics import Estimate, least_p

SURE = 0.05
IDLE = 0.01
"""An auxiliary loss with less than this part of the gradient on the trunk does nothing that a return could show."""
AUXILIARY = ("cmpo", "dynamics", "muesli_model")
MOST_SEEDS = 20


def verdicts(results: Results) -> list[str]:
    """What a reader should take along, a paragraph each."""
    reference = results.arms.get(results.comparison.reference)
    if reference is None:
        return [f"There is no finished run of {results.comparison.reference}, with which the others would be compared."]
    if not results.against:
        return [f"There is no finished run beside those of {reference.name}."]
    lines = [headline(results)]
    lines += few_seeds(results)
    lines += [one_arm(results.arms[name], reference, found) for name, found in results.against.items()]
    return lines


def headline(results: Results) -> str:
    """Which arms the seeds tell from the reference."""
    reference = results.comparison.reference
    better = [name for name, found in results.against.items() if separates(found) and found.final.value > 1 / 2]
    worse = [name for name, found in results.against.items() if separates(found) and found.final.value < 1 / 2]
    parts = [f"{' and '.join(names)} {word} {reference}" for names, word in ((better, "beat"), (worse, "fall behind")) if names]
    if not parts:
        return f"**These seeds do not separate any arm from {reference}.**"
    rest = len(results.against) - len(better) - len(worse)
    return f"**By final return, {'; '.join(parts)}{f'; {rest} of the arms cannot be told from it' if rest else ''}.**"


def few_seeds(results: Results) -> list[str]:
    """That no outcome of so few runs would be sure, where that is so."""
    least = max(found.least_p for found in results.against.values())
    if least <= SURE:
        return []
    enough = next(count for count in range(2, MOST_SEEDS) if least_p(count, count) <= SURE)
    return [
        f"With so few runs an arm, the clearest outcome that there can be (all of one arm above all of the other) has an exact "
        f"p of {least:.2f}: nothing here is sure at {SURE:.0%}, and the bootstrap's intervals are too narrow. "
        f"`--seeds {enough}` is the least that could tell; what is here is kept and not run again."
    ]


def separates(found: Against) -> bool:
    """Whether the final returns are told apart, by the bootstrap and by the exact test."""
    return excludes_half(found.final) and found.final_p <= SURE


def excludes_half(estimate: Estimate) -> bool:
    """Whether an interval of a probability of improvement lies on one side of 1/2."""
    return estimate.low > 1 / 2 or estimate.high < 1 / 2


def one_arm(arm: ArmResult, reference: ArmResult, found: Against) -> str:
    """One arm against the reference."""
    better = "better" if found.final.value > 1 / 2 else "worse"
    if separates(found):
        word = f"ends {better} than {reference.name}"
    elif excludes_half(found.final):
        word = f"looks {better} than {reference.name}, by too few runs to be sure"
    else:
        word = f"cannot be told from {reference.name}"
    return (
        f"**{arm.name}** {word}: {arm.final_iqm.value:.4g} against {reference.final_iqm.value:.4g}, probability of "
        f"improvement {estimate_text(found.final)}, exact p {found.final_p:.2g}. Over the whole run its return is "
        f"{arm.average_iqm.value:.4g} against {reference.average_iqm.value:.4g} (p {found.average_p:.2g}). "
        f"{speed(reference, found)}{idle(arm)}"
    )


def speed(reference: ArmResult, found: Against) -> str:
    """Env steps to the reference's final return, and what a step costs."""
    if math.isfinite(found.steps_ratio):
        steps = f"Its curve comes to where {reference.name}'s ends after {found.steps_ratio:.2f} times the env steps"
    else:
        steps = f"Its curve does not come to where {reference.name}'s ends"
    return f"{steps}; an env step took {found.cost:.2f} times as long here."


def idle(arm: ArmResult) -> str:
    """The auxiliary losses that are on and do nothing."""
    off = [name for name in AUXILIARY if arm.losses.get(name, {}).get("gradient_share", math.nan) < IDLE]
    if not off:
        return ""
    shares = ", ".join(f"{name} {arm.losses[name]['gradient_share']:.2%}" for name in off)
    return (
        f" Of the gradient on the trunk, {shares}: at {'this coefficient' if len(off) == 1 else 'these coefficients'} that is "
        f"switched off in all but name, whatever the return says."
    )


def estimate_text(estimate: Estimate, form: str = ".2f") -> str:
    """A number and its interval."""
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
