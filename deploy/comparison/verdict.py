"""A comparison in words: which arms differ, which may not, and which losses have almost no effect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deploy.comparison.results import Against, ArmResult, Results
from deploy.comparison.statistics import Estimate, least_p

SURE = 0.05
IDLE = 0.01
"""An auxiliary loss with a smaller share of the gradient on the trunk cannot change the return."""
MOST_SEEDS = 20


def verdicts(results: Results) -> list[str]:
    """The conclusions, one paragraph each."""
    reference = results.arms.get(results.comparison.reference)
    if reference is None:
        return [f"There is no finished run of {results.comparison.reference}, so nothing can be compared with it."]
    if not results.against:
        return [f"Only {reference.name} has finished runs."]
    lines = [headline(results)]
    lines += few_seeds(results)
    lines += [one_arm(results.arms[name], reference, found) for name, found in results.against.items()]
    return lines


def headline(results: Results) -> str:
    """Which arms differ from the reference by final return, and by the whole run where that says something else."""
    reference = results.comparison.reference
    finals = {name: side(found.final, found.final_p) for name, found in results.against.items()}
    averages = {name: side(found.average, found.average_p) for name, found in results.against.items()}
    if not any((*finals.values(), *averages.values())):
        return f"**With these seeds, no arm differs clearly from {reference}.**"
    lines = [f"By final return, {groups(finals, reference)}."]
    if averages != finals:
        lines.append(f"Averaged over the run, {groups(averages, reference)}.")
    return f"**{' '.join(lines)}**"


def groups(sides: Mapping[str, str], reference: str) -> str:
    """The arms that are better, worse, or neither, in words."""
    if not any(sides.values()):
        return f"no arm differs clearly from {reference}"
    words = (
        ("better", f"is better than {reference}", f"are better than {reference}"),
        ("worse", f"is worse than {reference}", f"are worse than {reference}"),
        ("", "does not differ clearly", "do not differ clearly"),
    )
    found = [([name for name, word in sides.items() if word == kind], one, several) for kind, one, several in words]
    return "; ".join(f"{listed(names)} {one if len(names) == 1 else several}" for names, one, several in found if names)


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them, such as `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def few_seeds(results: Results) -> list[str]:
    """A warning if no result could be significant with so few runs."""
    least = max(found.least_p for found in results.against.values())
    if least <= SURE:
        return []
    enough = next(count for count in range(2, MOST_SEEDS) if least_p(count, count) <= SURE)
    return [
        f"With so few runs per arm, even the clearest possible result (all runs of one arm above all of the other) has an "
        f"exact p of {least:.2f}. So nothing here is significant at {SURE:.0%}, and the bootstrap intervals are too narrow. "
        f"Use at least `--seeds {enough}`; finished runs are kept and not run again."
    ]


def side(improvement: Estimate, p: float) -> str:
    """`better` or `worse` if the runs differ, by both the bootstrap and the exact test; otherwise empty."""
    if not excludes_half(improvement) or p > SURE:
        return ""
    return "better" if improvement.value > 1 / 2 else "worse"


def excludes_half(estimate: Estimate) -> bool:
    """Whether an interval of a probability of improvement lies on one side of 1/2."""
    return estimate.low > 1 / 2 or estimate.high < 1 / 2


def one_arm(arm: ArmResult, reference: ArmResult, found: Against) -> str:
    """One arm against the reference."""
    if differs := side(found.final, found.final_p):
        word = f"is {differs} than {reference.name}"
    elif excludes_half(found.final):
        looks = "better" if found.final.value > 1 / 2 else "worse"
        word = f"looks {looks} than {reference.name}, but there are too few runs to be sure"
    else:
        word = f"does not differ clearly from {reference.name}"
    return (
        f"**{arm.name}** {word}: final return {arm.final_iqm.value:.4g} against {reference.final_iqm.value:.4g}, "
        f"probability of improvement {estimate_text(found.final)}, exact p {found.final_p:.2g}. Averaged over the run, its "
        f"return is {arm.average_iqm.value:.4g} against {reference.average_iqm.value:.4g} (p {found.average_p:.2g}). "
        f"{speed(reference, found)}{idle(arm)}"
    )


def speed(reference: ArmResult, found: Against) -> str:
    """Env steps to the reference's final return, and the time per step."""
    if math.isfinite(found.steps_ratio):
        steps = f"It reaches {reference.name}'s final return with {found.steps_ratio:.2f} times the env steps"
    else:
        steps = f"It does not reach {reference.name}'s final return"
    return f"{steps}; an env step took {found.cost:.2f} times as long on this machine."


def idle(arm: ArmResult) -> str:
    """The auxiliary losses that are enabled but have almost no effect."""
    auxiliary = [name for name, descriptor in arm.descriptors.items() if descriptor.auxiliary]
    off = [name for name in auxiliary if arm.losses[name]["gradient_share"] < IDLE]
    if not off:
        return ""
    shares = ", ".join(f"{name} {arm.losses[name]['gradient_share']:.2%}" for name in off)
    return (
        f" Share of the gradient on the trunk: {shares}. With {'this coefficient' if len(off) == 1 else 'these coefficients'} "
        f"{'the loss has' if len(off) == 1 else 'the losses have'} almost no effect on training, whatever the return is."
    )


def return_form(value: float) -> str:
    """A format that shows four digits of a return, and one after the point at least."""
    return f".{max(1, 4 - len(str(int(abs(value)))))}f" if math.isfinite(value) else "f"


def estimate_text(estimate: Estimate, form: str = ".2f") -> str:
    """A number and its interval."""
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
