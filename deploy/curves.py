"""Draws a run's curves: return, weighted losses, their gradient norms, and policy statistics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learner.loss_descriptor import LOSSES_FILE, LossDescriptor, describe, from_json, loss_colors
from oatmill.errors import UserError
from runner.metrics_table import Lines, read_lines

WIDTH, HEIGHT, DPI = 11.0, 7.0, 110
PNG = "curves.png"


def read_descriptors(run_dir: Path) -> dict[str, LossDescriptor]:
    """The descriptors of a run's losses; empty if they cannot be read."""
    try:
        return from_json(json.loads((run_dir / LOSSES_FILE).read_text()))
    except (OSError, ValueError):
        return {}


def draw(run_dir: Path) -> Path:
    """Draw a run's curves into its `plots` folder.

    Args:
        run_dir: the run's folder.

    Returns:
        The picture's path.

    Raises:
        UserError: if the folder has no reported learner steps or cannot be written to, or matplotlib is not installed.
    """
    figure_of = figure_class()
    lines = read_lines(run_dir)
    figure = figure_of(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    colors = loss_colors(describe(lines[-1]["losses"], read_descriptors(run_dir)))
    draw_return(axes[0][0], lines)
    draw_losses(axes[0][1], lines, colors, "weighted", "weighted loss, magnitude")
    draw_policy(axes[1][0], lines)
    draw_losses(axes[1][1], lines, colors, "gradient_norm", "gradient on the trunk, norm")
    for axis in axes[1]:
        axis.set_xlabel("env steps")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.suptitle(run_dir.resolve().name)
    path = run_dir / "plots" / PNG
    try:
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; copy the run to a folder that you can write to") from None
    return path


def figure_class() -> Any:
    """Matplotlib's Figure, which draws to files and needs no display.

    Raises:
        UserError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (only drawing needs it)
    except ImportError:
        raise UserError("drawing needs matplotlib; pip install 'oatmill[plot]'") from None
    return Figure


def column(lines: Lines, *names: str) -> list[float]:
    """The number at a path of every line; NaN if missing."""
    values = []
    for line in lines:
        entry: Any = line
        for name in names:
            entry = entry.get(name) if isinstance(entry, Mapping) else None
        values.append(float("nan") if entry is None else float(entry))
    return values


def draw_return(axis: Any, lines: Lines) -> None:
    """Draw the mean return of the last 100 episodes with a band of one standard deviation."""
    steps, mean, std = (
        column(lines, *path) for path in (("env_steps",), ("episode_return", "mean"), ("episode_return", "std"))
    )
    axis.plot(steps, mean, label="episode return, mean of the last 100")
    low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
    axis.fill_between(steps, low, high, alpha=0.2, label="one standard deviation")
    axis.set_ylabel("return")


def draw_losses(axis: Any, lines: Lines, colors: Mapping[str, str], field: str, label: str) -> None:
    """Draw one curve per loss on a logarithmic scale."""
    steps = column(lines, "env_steps")
    for name, color in colors.items():
        axis.plot(steps, [abs(value) for value in column(lines, "losses", name, field)], label=name, color=color)
    axis.set_yscale("log")
    axis.set_ylabel(label)


def draw_policy(axis: Any, lines: Lines) -> None:
    """Draw entropy as a fraction of uniform, explained variance, and the KL of a learner step."""
    steps = column(lines, "env_steps")
    axis.plot(steps, column(lines, "entropy", "fraction"), label="entropy, fraction of uniform")
    axis.plot(steps, column(lines, "explained_variance"), label="explained variance")
    axis.plot(steps, column(lines, "approx_kl"), label="KL of a learner step")
    axis.set_ylim(-0.5, 1.05)
    axis.set_ylabel("policy and value")
