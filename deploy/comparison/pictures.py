"""A comparison's pictures: learning curves with intervals, the returns of each run, and the shares of each loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.comparison.results import ArmResult, Results
from deploy.curves import figure_class
from learner.loss_descriptor import BUILT_IN, loss_colors

COLORS = ("#3b6fb6", "#d1762b", "#2f9e6e", "#b5447a", "#7a5cc0", "#8a6d3b", "#4a4f57", "#1fa2b8")
DPI = 110
SAY_FROM = 0.04
"""Parts of a bar that are wider than this get a label."""


def draw_all(results: Results, folder: Path) -> dict[str, Path]:
    """Draw every picture, and return its path by what it shows."""
    folder.mkdir(exist_ok=True)
    arms = list(results.arms.values())
    return {
        "curves": draw_curves(arms, folder / "curves.png"),
        "returns": draw_returns(arms, folder / "returns.png"),
        "losses": draw_losses(arms, folder / "losses.png"),
    }


def color_of(place: int) -> str:
    """The color of an arm."""
    return COLORS[place % len(COLORS)]


def draw_curves(arms: Sequence[ArmResult], path: Path) -> Path:
    """Each arm's interquartile mean with its interval, and its runs as thin lines."""
    figure = figure_class()(figsize=(9.5, 5.0), layout="constrained")
    axis = figure.subplots()
    for place, arm in enumerate(arms):
        curve, color = arm.curve, color_of(place)
        axis.fill_between(curve.env_steps, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
        for run in curve.runs:
            axis.plot(curve.env_steps, run, color=color, alpha=0.45, linewidth=0.7)
        axis.plot(curve.env_steps, curve.middle, color=color, linewidth=2.2, label=f"{arm.name} ({len(arm.final)} runs)")
    axis.set_xlabel("env steps")
    axis.set_ylabel("return, mean of the last 100 episodes")
    axis.set_title("Interquartile mean and its 95 % interval; thin: single runs", fontsize="medium", loc="left")
    finish(axis)
    axis.xaxis.set_major_formatter(lambda value, _place: f"{value:,.0f}")
    axis.legend(frameon=False)
    return save(figure, path)


def draw_returns(arms: Sequence[ArmResult], path: Path) -> Path:
    """One dot per run, and the interquartile mean with its interval, of the final and of the average return."""
    figure = figure_class()(figsize=(9.5, 0.9 + 0.55 * len(arms)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, kind, title in zip(axes, ("final", "average"), ("final return", "return averaged over the run"), strict=True):
        for place, arm in enumerate(arms):
            color, runs, middle = color_of(place), getattr(arm, kind), getattr(arm, f"{kind}_iqm")
            axis.plot([middle.low, middle.high], [place, place], color=color, linewidth=7, alpha=0.3, solid_capstyle="butt")
            axis.plot([middle.value] * 2, [place - 0.25, place + 0.25], color=color, linewidth=2.4)
            axis.scatter(runs, np.full(len(runs), place), color=color, s=22, zorder=3)
        axis.set_title(title, fontsize="medium", loc="left")
        axis.set_yticks(range(len(arms)), [arm.name for arm in arms])
        finish(axis)
    axes[0].invert_yaxis()
    return save(figure, path)


def draw_losses(arms: Sequence[ArmResult], path: Path) -> Path:
    """Each loss's share of the objective by value, and of the gradient on the trunk."""
    figure = figure_class()(figsize=(9.5, 1.4 + 0.55 * len(arms)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    seen = {name: descriptor for arm in arms for name, descriptor in arm.descriptors.items()}
    names = [name for name in BUILT_IN if name in seen] + [name for name in seen if name not in BUILT_IN]
    colors = loss_colors({name: seen[name] for name in names})
    titles = ("share by value", "share of the gradient on the trunk (look at this one)")
    for axis, number, title in zip(axes, ("share", "gradient_share"), titles, strict=True):
        left = np.zeros(len(arms))
        for loss in names:
            widths = np.nan_to_num([arm.losses.get(loss, {}).get(number, 0.0) for arm in arms])
            axis.barh(range(len(arms)), widths, left=left, height=0.62, color=colors[loss], label=loss)
            label_bars(axis, left, widths)
            left = left + widths
        axis.set_xlim(0, 1)
        axis.set_xticks([0, 0.25, 0.5, 0.75])
        axis.xaxis.set_major_formatter(lambda value, _place: f"{value:.0%}")
        axis.set_title(title, fontsize="medium", loc="left")
        axis.set_yticks(range(len(arms)), [arm.name for arm in arms])
        finish(axis)
        axis.grid(visible=False, axis="y")
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    return save(figure, path)


def label_bars(axis: Any, left: Any, widths: Any) -> None:
    """Write the share into each bar that has room for it."""
    for place, (start, width) in enumerate(zip(left, widths, strict=True)):
        if width > SAY_FROM:
            axis.text(start + width / 2, place, f"{width:.0%}", ha="center", va="center", color="white", fontsize="small")


def finish(axis: Any) -> None:
    """The look of all pictures: a light grid, no frame at the top and the right."""
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Any, path: Path) -> Path:
    """Save a figure and return its path."""
    figure.savefig(path, dpi=DPI)
    return path
