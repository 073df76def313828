"""HTML for notebooks: small tables, with every text escaped. A run's result as such."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oatmill.files.run_files import CONFIG_FILE, METRICS_FILE, SUMMARY_FILE
from oatmill.settings.flat import flatten_settings
from runner.observer import counted, number, value

if TYPE_CHECKING:
    from runner.result import RunResult

MISSING = "-"
FILES = (SUMMARY_FILE, METRICS_FILE, CONFIG_FILE, "plan.txt", "checkpoints/latest", "checkpoints/best", "logs")
"""What of a run folder is shown, if it exists."""
Rows = Iterable[Sequence[object]]


def result_html(result: RunResult) -> str:
    """A run's result: returns, losses, red flags, ledger and paths."""
    ledger = flatten_settings(result.ledger)
    flags = [(flag.get("flag"), flag.get("why")) for flag in result.red_flags]
    preset = f", preset {result.preset}" if result.preset else ""
    return page(
        f"{result.recipe}{preset}, seed {result.seed}: {result.outcome}",
        table("Return", ("", "mean", "std", "episodes"), return_rows(result)),
        table("Training", (), training_rows(result)),
        table("Losses", ("loss", "weighted", "share", "gradient share"), map(loss_row, result.losses.items())),
        table("Red flags", (), flags or [("none", "")]),
        table("Ledger of trajectories", (), ledger.items()),
        table("Paths", (), path_rows(Path(result.run_dir))),
    )


def return_rows(result: RunResult) -> Rows:
    """The actors' return, and both of the evaluator's."""
    means: dict[str, Any] = {"actors' last episodes": result.episode_return}
    if result.eval_return is not None:
        means |= {f"evaluated, {name}": result.eval_return.get(name) for name in ("deterministic", "drawn")}
    for name, one in means.items():
        yield name, number(value(one, "mean"), ".2f"), number(value(one, "std"), ".2f"), number(value(one, "n"), ",")


def training_rows(result: RunResult) -> Rows:
    """How far and how fast, and the policy's statistics."""
    if result.error is not None:
        yield "error", result.error
    yield "env steps", f"{result.env_steps:,} in {counted(result.learner_steps, 'learner step')}"
    yield "time", f"{number(result.seconds, '.1f')} s, {number(result.env_steps_per_second, ',.0f')} env steps/s"
    yield "entropy", f"{number(value(result.entropy, 'nats'), '.3f')} nats"
    yield "explained variance", number(result.explained_variance, ".2f")
    yield "policy lag", f"{number(value(result.policy_lag, 'p50'), '.0f')} versions"
    yield "actor restarts", result.actor_restarts


def loss_row(loss: tuple[str, Mapping[str, Any]]) -> Sequence[object]:
    """One loss."""
    name, values = loss
    shares = (number(values.get(share), ".1%") for share in ("share", "gradient_share"))
    return (name, number(values.get("weighted"), ".4g"), *shares)


def path_rows(folder: Path) -> Rows:
    """The run folder and what is in it."""
    yield "run folder", folder
    for name in FILES:
        if (folder / name).exists():
            yield name, folder / name


def shown(setting: object) -> str:
    """A setting's value as YAML has it."""
    return json.dumps(setting) if setting is None or isinstance(setting, bool | list) else str(setting)


def page(title: str, *tables: str) -> str:
    """A heading and tables."""
    return f"<div><p><b>{escape(title)}</b></p>{''.join(tables)}</div>"


def table(title: str, columns: Sequence[str], rows: Rows) -> str:
    """A table with a caption; nothing if it has no rows."""
    body = "".join(f"<tr>{''.join(f'<td>{cell(one)}</td>' for one in row)}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    return (
        f'<table><caption style="text-align: left"><i>{escape(title)}</i></caption>'
        f"{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
    )


def cell(content: object) -> str:
    """A cell's text, escaped."""
    return MISSING if content is None else escape(str(content))
