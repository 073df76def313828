"""Writes what a sweep has found: best.yaml, a `--config` file, and report.html."""

from __future__ import annotations

import base64
import html
import io
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.curves import figure_class
from deploy.sweep.study import Sweep, brief, importances
from oatmill.files.atomic import write_file
from oatmill.settings import yaml_format
from runner.overrides import merged, nested

BEST, PAGE = "best.yaml", "report.html"
WIDTH, HEIGHT, DPI = 10.0, 3.6, 110
PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
"""Behind a text, so that no line crosses it."""


def write_results(sweep: Sweep, study: Any) -> dict[str, Any] | None:
    """Write best.yaml and report.html into the sweep's folder.

    Returns:
        The best trial: number, return and values; None if no trial is complete.
    """
    complete = of_state(study, "COMPLETE")
    if not complete:
        return None
    best = max(complete, key=lambda trial: trial.value)
    values = values_of(sweep, best)
    content: Mapping[str, Any] = {}
    for layer in sweep.common:
        content = merged(content, layer.values)
    content = merged(content, nested(values.items()))
    write_file(sweep.out / BEST, yaml_format.dump(dict(content)))
    write_file(sweep.out / PAGE, page(sweep, study, complete))
    return {"trial": best.number + 1, "return": best.value, "values": values, "trials": len(study.trials)}


def of_state(study: Any, state: str) -> list[Any]:
    """The trials that ended so. Optuna gives a pruned trial a value, too: its return when it was ended."""
    return [trial for trial in study.trials if trial.state.name == state and trial.value is not None]


def values_of(sweep: Sweep, trial: Any) -> dict[str, Any]:
    """A trial's settings by path."""
    return {parameter.path: parameter.value(trial.params[parameter.path]) for parameter in sweep.parameters}


def page(sweep: Sweep, study: Any, complete: list[Any]) -> str:
    """The report as one HTML file."""
    paths = [parameter.path for parameter in sweep.parameters]
    weights = importances(study)
    pictures = [
        ("Return by trial", history(complete, of_state(study, "PRUNED"), last=len(study.trials))),
        ("Parallel coordinates", parallel(sweep, complete)),
    ]
    if weights:
        pictures.append(("Importance of each setting (PED-ANOVA)", bars(weights)))
    others = [trial for trial in study.trials if trial not in complete]
    rows = [*sorted(complete, key=lambda trial: trial.value, reverse=True), *others]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("trial", "return", "state", *paths))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape(str(cell))}</td>"
            for cell in (
                trial.number + 1,
                "-" if trial.value is None else f"{trial.value:.2f}",
                trial.state.name.lower(),
                *(brief(value) for value in values_of(sweep, trial).values()),
            )
        )
        + "</tr>"
        for trial in rows
        if len(trial.params) == len(paths)
    )
    drawn = "".join(
        f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        for title, content in pictures
    )
    style = (
        "body{font:15px sans-serif;max-width:72em;margin:2em auto;padding:0 1em}img{max-width:100%}"
        "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}"
    )
    seeds = "1 seed" if sweep.seeds == 1 else f"{sweep.seeds} seeds"
    title = f"Sweep of {html.escape(sweep.recipe.name)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style><h1>{title}</h1>'
        f"<p>{len(study.trials)} trials, {seeds} each. Best settings: {BEST}, for <code>oatmill train "
        f"{html.escape(sweep.recipe.argument)} --config {html.escape(str(sweep.out / BEST))}</code>.</p>{drawn}"
        f"<h2>Trials</h2><table><tr>{head}</tr>{body}</table></html>\n"
    )


def best_so_far(complete: list[Any], last: int) -> tuple[list[int], list[float]]:
    """The best return after each complete trial, up to the sweep's last trial, whether that was complete or not."""
    numbers, returns = [trial.number + 1 for trial in complete], [trial.value for trial in complete]
    best = list(itertools.accumulate(returns, max))
    return [*numbers, last], [*best, best[-1]]


def history(complete: list[Any], pruned: list[Any], *, last: int) -> bytes:
    """The return of every trial, and the best so far.

    Args:
        complete: the complete trials, at least one.
        pruned: the pruned trials.
        last: the number of the sweep's last trial.
    """
    figure = figure_class()(figsize=(WIDTH, HEIGHT), layout="constrained")
    axis = figure.subplots()
    axis.plot([trial.number + 1 for trial in complete], [trial.value for trial in complete], "o", label="trial")
    axis.plot(*best_so_far(complete, last), drawstyle="steps-post", label="best so far")
    if pruned:
        axis.plot(
            [trial.number + 1 for trial in pruned],
            [trial.value for trial in pruned],
            "x",
            color="0.5",
            label="pruned, when it was ended",
        )
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("trial")
    axis.set_ylabel("return")
    axis.legend()
    return png(figure)


def parallel(sweep: Sweep, complete: list[Any]) -> bytes:
    """One line per trial through its settings and its return; the darker, the better."""
    figure = figure_class()(figsize=(WIDTH, HEIGHT + 1), layout="constrained")
    axis = figure.subplots()
    returns = [trial.value for trial in complete]
    places = [[place(parameter, trial.params[parameter.path]) for trial in complete] for parameter in sweep.parameters]
    columns = [*places, [fraction(value, min(returns), max(returns)) for value in returns]]
    for number in sorted(range(len(complete)), key=lambda number: returns[number]):
        good = columns[-1][number]
        axis.plot([column[number] for column in columns], color=(0.12, 0.35, 0.65), alpha=0.3 + 0.7 * good, lw=1 + 1.5 * good)
    for position, parameter in enumerate(sweep.parameters):
        ticks = [(place(parameter, drawn), brief(value)) for drawn, value in marks(parameter)]
        for height, text in ticks:
            axis.annotate(text, (position, height), xytext=(4, 0), textcoords="offset points", fontsize=8, bbox=PLATE)
        axis.axvline(position, color="0.8", zorder=0)
    for height, value in ((0.0, min(returns)), (1.0, max(returns))):
        axis.annotate(brief(value), (len(places), height), xytext=(4, 0), textcoords="offset points", fontsize=8, bbox=PLATE)
    axis.axvline(len(places), color="0.8", zorder=0)
    axis.set_xticks(range(len(columns)), [*(parameter.path.rpartition(".")[2] for parameter in sweep.parameters), "return"])
    axis.set_yticks([])
    axis.set_xlim(-0.1, len(places) + 0.4)
    return png(figure)


def marks(parameter: Any) -> list[tuple[Any, Any]]:
    """What is written on a parameter's axis: drawn values and what they stand for."""
    if parameter.choices:
        return list(zip(parameter.distribution().choices, parameter.choices, strict=True))
    return [(end, end) for end in parameter.ends]


def place(parameter: Any, drawn: Any) -> float:
    """Where a drawn value is on its axis, from 0 to 1."""
    if parameter.choices:
        return float(parameter.distribution().choices.index(drawn)) / (len(parameter.choices) - 1)
    if parameter.log:
        return fraction(math.log(drawn), math.log(parameter.low), math.log(parameter.high))
    return fraction(drawn, parameter.low, parameter.high)


def fraction(value: float, low: float, high: float) -> float:
    """Where a value is between two others; 1 if they are the same."""
    return (value - low) / (high - low) if high > low else 1.0


def bars(weights: Mapping[str, float]) -> bytes:
    """A bar per setting."""
    figure = figure_class()(figsize=(WIDTH, 0.6 + 0.5 * len(weights)), layout="constrained")
    axis = figure.subplots()
    axis.barh(list(weights)[::-1], list(weights.values())[::-1])
    axis.set_xlabel("share of the variation of the return")
    return png(figure)


def png(figure: Any) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    return buffer.getvalue()


def lines_of(found: Mapping[str, Any], out: Path, recipe: str) -> list[str]:
    """The last lines of the command."""
    return [
        f"best            return {found['return']:.2f} in trial {found['trial']} of {found['trials']}",
        *(f"  {path} = {brief(value)}" for path, value in found["values"].items()),
        f"report          {out / PAGE}",
        f"train with it   oatmill train {recipe} --config {out / BEST}",
    ]
