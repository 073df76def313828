"""The report of a comparison: the runs, the verdict, curves, scores, losses and red flags."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploy.comparison.document import Command, Heading, Paragraph, Part, Picture, Table, to_html, to_markdown
from deploy.comparison.milestones import Milestone, Unit, milestones
from deploy.comparison.pictures import draw_all
from deploy.comparison.results import ArmResult, Results
from deploy.comparison.statistics import Estimate
from deploy.comparison.verdict import estimate_text, return_form, verdicts
from oatmill.json_values import without_nonfinite
from runner.overrides import leaves

METHOD = (
    "A score is a run's mean return over its last 100 episodes. The interquartile mean leaves out a quarter of the runs at "
    "each end (none with fewer than four runs); its interval is the 95 % percentile bootstrap over runs. The probability of "
    "improvement is the probability that a run of the arm scores higher than a run of {reference}; ties count half, and each "
    "arm's runs are resampled separately (Agarwal et al. 2021, arXiv:2108.13264). The exact p comes from a permutation test "
    "over all ways to assign the runs to the two arms. Env steps per second were measured on this machine."
)


def write_report(results: Results, command: Sequence[str]) -> dict[str, Any]:
    """Write report.md, report.html, report.json and the pictures into the comparison's folder.

    Args:
        results: the results of all finished runs.
        command: the command that makes this report again.

    Returns:
        The content of report.json.
    """
    out = results.comparison.out
    pictures = draw_all(results, out / "pictures") if results.arms else {}
    parts = compose(results, pictures, command)
    (out / "report.md").write_text(to_markdown(parts))
    (out / "report.html").write_text(to_html(parts))
    content = to_dict(results)
    (out / "report.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return content


def compose(results: Results, pictures: Mapping[str, Path], command: Sequence[str]) -> list[Part]:
    """All parts in order, the verdict first."""
    comparison, arms = results.comparison, list(results.arms.values())
    steps = comparison.cells[0].settings.trainer.total_timesteps
    parts: list[Part] = [
        Heading(f"{comparison.recipe}: {', '.join(comparison.arms)}", 1),
        Paragraph(
            f"{len(comparison.of_arm(comparison.reference))} seeds per arm, {steps:,} env steps per run; each arm is compared "
            f"with {comparison.reference}. Command:"
        ),
        Command(shlex.join(command)),
        Heading("Verdict"),
        *(Paragraph(line) for line in verdicts(results)),
    ]
    if results.missing:
        parts.append(Paragraph(f"Left out: {'; '.join(results.missing)}."))
    if not arms:
        return parts
    return [
        *parts,
        Heading("Learning curves"),
        Picture(pictures["curves"], "learning curves of all arms"),
        Heading("Scores"),
        Picture(pictures["returns"], "final and average return of every run"),
        score_table(results),
        Paragraph(METHOD.format(reference=comparison.reference)),
        *milestone_parts(results),
        Heading("The size of each loss"),
        Picture(pictures["losses"], "shares of each loss by value and by gradient"),
        Paragraph(
            "Means of the magnitudes over all reports of all runs. Look at the gradient share: a large value may train "
            "nothing (the constant part of a cross-entropy), and a value near 0 may train a lot (PPO's surrogate)."
        ),
        loss_table(arms),
        Heading("Red flags"),
        *flag_parts(arms),
        Heading("What each arm changes"),
        settings_table(results),
    ]


def score_table(results: Results) -> Table:
    """One row per arm."""
    rows = []
    for arm in results.arms.values():
        found = results.against.get(arm.name)
        rows.append(
            [
                arm.name,
                estimate_text(arm.final_iqm, return_form(arm.final_iqm.value)),
                estimate_text(arm.average_iqm, return_form(arm.average_iqm.value)),
                estimate_text(found.final) if found else "",
                f"{found.final_p:.2g}" if found else "",
                number(found.steps_ratio, ".2f") if found else "1",
                f"{arm.env_steps_per_second:,.0f}",
                f"{arm.entropy:.0%}",
                f"{arm.explained_variance:.2f}",
            ]
        )
    columns = (
        "arm",
        "final return",
        "average return",
        "P(improvement)",
        "exact p",
        "env steps to the reference's final return",
        "env steps/s",
        "entropy",
        "explained variance",
    )
    return Table(columns, rows)


def milestone_parts(results: Results) -> list[Part]:
    """Env steps and seconds to returns on the way to the reference's final return; nothing if that is not above the first."""
    reference = results.arms.get(results.comparison.reference)
    if not reference or not milestones(reference, reference, "env_steps"):
        return []
    return [
        Heading("Env steps to a return"),
        milestone_table(results, reference, "env_steps"),
        Paragraph(
            f"Returns at 25, 50, 75 and 90 % of the increase of {reference.name}'s return. For {reference.name}: the mean over "
            "its runs. For the other arms: their mean divided by that, its 95 % percentile bootstrap interval, and the exact "
            "p. There is no ratio if a run of either arm does not reach the return."
        ),
        Heading("Seconds to a return"),
        milestone_table(results, reference, "seconds"),
        Paragraph("The same in seconds of training. They can be compared if nothing else used the machine during the runs."),
    ]


def milestone_table(results: Results, reference: ArmResult, unit: Unit) -> Table:
    """One row per arm."""
    goals = (f"return {milestone.goal:.4g}" for milestone in milestones(reference, reference, unit))
    rows = [
        [arm.name, *(milestone_text(milestone, unit) for milestone in milestones(arm, reference, unit))]
        for arm in results.arms.values()
    ]
    return Table(("arm", *goals), rows)


def milestone_text(milestone: Milestone, unit: Unit) -> str:
    """The ratio, the reference's env steps or seconds, or how many runs reach the return."""
    if milestone.reached < len(milestone.taken):
        return f"reached by {milestone.reached} of {len(milestone.taken)} runs"
    if milestone.ratio is None or milestone.p is None:
        return f"{milestone.taken.mean():,.0f} env steps" if unit == "env_steps" else f"{milestone.taken.mean():,.1f} seconds"
    return f"{estimate_text(milestone.ratio)}, p {milestone.p:.2g}"


def loss_table(arms: Sequence[ArmResult]) -> Table:
    """One row per loss of each arm."""
    forms = {"coef": ".4g", "raw": ".3g", "weighted": ".3g", "share": ".1%", "gradient_norm": ".3g", "gradient_share": ".2%"}
    rows = [
        [arm.name, loss, *(number(numbers[name], form) for name, form in forms.items())]
        for arm in arms
        for loss, numbers in arm.losses.items()
    ]
    return Table(
        ("arm", "loss", "coefficient", "raw", "weighted", "share", "gradient norm", "gradient share"), rows, words=(0, 1)
    )


def flag_parts(arms: Sequence[ArmResult]) -> list[Part]:
    """Each red flag that a run raised, with the reason from the first run."""
    rows = [
        [arm.name, f"`{flag}`", f"{count} of {len(arm.final)}", why] for arm in arms for flag, (count, why) in arm.flags.items()
    ]
    if not rows:
        return [Paragraph("No run raised a red flag.")]
    return [Table(("arm", "flag", "runs", "why (first run)"), rows, words=(0, 1, 3))]


def settings_table(results: Results) -> Table:
    """The settings of each arm."""
    rows = []
    for name, values in results.comparison.arms.items():
        settings = [f"`{path}={shown(value)}`" for path, value in leaves(dict(values))]
        rows.append([name, " ".join(settings) or "nothing", ", ".join(str(s) for s in seeds_of(results, name)) or "none"])
    return Table(("arm", "sets", "finished seeds"), rows, words=(0, 1, 2))


def seeds_of(results: Results, name: str) -> Sequence[int]:
    """The seeds whose runs are counted."""
    return results.arms[name].seeds if name in results.arms else ()


def to_dict(results: Results) -> dict[str, Any]:
    """The content of report.json and of `--json`."""
    comparison = results.comparison
    plain: dict[str, Any] = without_nonfinite(
        {
            "recipe": comparison.recipe,
            "out": str(comparison.out),
            "reference": comparison.reference,
            "arms": {name: arm_dict(arm) for name, arm in results.arms.items()},
            "against": {name: against_dict(results, name) for name in results.against},
            "missing": list(results.missing),
            "verdict": verdicts(results),
        }
    )
    return plain


def against_dict(results: Results, name: str) -> dict[str, Any]:
    """One arm against the reference, with its milestones."""
    found, arm, reference = results.against[name], results.arms[name], results.arms[results.comparison.reference]
    units: tuple[Unit, ...] = ("env_steps", "seconds")
    steps = [
        {"return": pair[0].goal} | {unit: milestone_dict(milestone) for unit, milestone in zip(units, pair, strict=True)}
        for pair in zip(*(milestones(arm, reference, unit) for unit in units), strict=True)
    ]
    return asdict(found) | estimates(asdict(found), found) | {"milestones": steps}


def milestone_dict(milestone: Milestone) -> dict[str, Any]:
    """What one arm's runs took to a return, and the ratio to the reference's."""
    ratio = milestone.ratio._asdict() if milestone.ratio else None
    return {"taken": milestone.taken.tolist(), "ratio": ratio, "p": milestone.p}


def arm_dict(arm: ArmResult) -> dict[str, Any]:
    """One arm, without its curve."""
    return {
        "seeds": list(arm.seeds),
        "final": arm.final.tolist(),
        "average": arm.average.tolist(),
        "final_iqm": arm.final_iqm._asdict(),
        "average_iqm": arm.average_iqm._asdict(),
        "losses": {name: dict(numbers) for name, numbers in arm.losses.items()},
        "red_flags": {flag: {"runs": count, "why": why} for flag, (count, why) in arm.flags.items()},
        "env_steps_per_second": arm.env_steps_per_second,
        "entropy": arm.entropy,
        "explained_variance": arm.explained_variance,
    }


def estimates(values: Mapping[str, Any], found: Any) -> dict[str, Any]:
    """The estimates among an object's fields, as dictionaries."""
    return {name: getattr(found, name)._asdict() for name in values if isinstance(getattr(found, name), Estimate)}


def number(value: float, form: str) -> str:
    """A number as text; a dash if it is not finite."""
    return format(value, form) if math.isfinite(value) else "-"


def shown(value: Any) -> str:
    """A setting's value, as it is typed on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
