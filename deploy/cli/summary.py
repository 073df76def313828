"""The summary that `oatmill train` prints at the end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from actors.settings import EnvSettings
from runner.continuing import continue_command
from runner.evaluation.baselines import random_return
from runner.observer import counted, number, value
from runner.result import RunResult
from runner.settings import RunSettings
from runner.trust import code_named

LOSS_COLUMNS = ("loss", "raw", "coefficient", "weighted", "share", "gradient share")


def summary_lines(result: RunResult, settings: RunSettings) -> list[str]:
    """A run's result for people.

    Args:
        result: the run's result.
        settings: the run's settings.
    """
    return [
        "",
        *facts(result, settings.env),
        "",
        *([*loss_table(result.losses), ""] if result.losses else []),
        *red_flag_lines(result),
        ledger_line(result.ledger),
        *([f"restarts        {restarts(result.actor_restarts)}"] if result.actor_restarts else []),
        f"run folder      {result.run_dir}",
        *(next_steps(result, settings) if result.learner_steps else []),
    ]


def restarts(count: int) -> str:
    """How often actors were restarted, and where the reasons are."""
    return f"actors ended and were restarted {counted(count, 'time')}; `oatmill doctor` says why"


def next_steps(result: RunResult, settings: RunSettings) -> list[str]:
    """The commands to go on with."""
    folder = min(str(result.run_dir), os.path.relpath(result.run_dir), key=len)
    own_code = code_named(settings) is not None  # which `eval` and `train --resume` run only if told to
    run, trust = shlex.quote(folder), " --trust" if own_code else ""
    budget = f" trainer.total_timesteps={2 * settings.trainer.total_timesteps}" if result.outcome == "done" else ""
    steps = {
        "evaluate": f"oatmill eval {run}{trust}",
        "watch": f"oatmill eval {run}{trust} --record video.mp4",
        "plot": f"oatmill plot {run}",
        "examine": f"oatmill doctor {run}",
        "continue": f"{continue_command(folder, trust=own_code)}{budget}",
    }
    return ["", *(f"{name:<16}{command}" for name, command in steps.items())]


def of_uniform(result: RunResult) -> str:
    """The entropy as a fraction of a uniform policy's; empty for continuous actions, which have none."""
    fraction = value(result.entropy, "fraction")
    return "" if fraction is None else f" ({number(fraction, '.0%')} of uniform)"


def facts(result: RunResult, env: EnvSettings) -> list[str]:
    """Return, progress, speed and policy statistics."""
    lines = [
        f"episode return  {return_text(result.episode_return, random_return(env))}",
        *evaluator_lines(result.eval_return),
        f"env steps       {result.env_steps:,} in {counted(result.learner_steps, 'learner step')} and "
        f"{number(result.seconds, '.1f')} s, {number(result.env_steps_per_second, ',.0f')} per second",
    ]
    if result.learner_steps:
        entropy = f"{number(value(result.entropy, 'nats'), '.3f')} nats{of_uniform(result)}"
        explained, lag = number(result.explained_variance, ".2f"), number(value(result.policy_lag, "p50"), ".0f")
        lines.append(f"policy          entropy {entropy}, explained variance {explained}, lag {lag} versions")
    if result.episode_statistics and result.episode_return.get("n"):
        shown = ", ".join(f"{name} {number(mean, '.2f')}" for name, mean in result.episode_statistics.items())
        lines.append(f"an episode      {shown}")
    if result.outcome != "done":
        lines.append(f"outcome         {result.outcome}")
    return lines


def evaluator_lines(eval_return: Mapping[str, Any] | None) -> list[str]:
    """What the evaluator measured last, in one line; none without an evaluator."""
    if eval_return is None:
        return []
    shown = ", ".join(
        f"{number(value(eval_return, policy, 'mean'), '.2f')} +- {number(value(eval_return, policy, 'std'), '.2f')} {policy}"
        for policy in ("deterministic", "drawn")
    )
    episodes = counted(value(eval_return, "drawn", "n") or 0, "episode")
    return [f"evaluated       {shown}, over {episodes} each with {eval_return['checkpoint']}"]


def return_text(episode_return: Mapping[str, Any], baseline: float | None) -> str:
    """The mean return, and the random policy's if it was measured."""
    random = f"; the random policy gets {baseline:g}" if baseline is not None else ""
    count = episode_return.get("n", 0)
    if not count:
        return f"no episode has ended yet{random}"
    mean, spread = number(episode_return["mean"], ".2f"), number(episode_return["std"], ".2f")
    return f"{mean} +- {spread} over the last {counted(count, 'episode')}{random}"


def loss_table(losses: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table of all losses and their terms: raw, weighted, and shares of objective and gradient."""
    rows: list[tuple[str, ...]] = [LOSS_COLUMNS]
    for name, loss in losses.items():
        rows.append(loss_row(name, loss))
        terms = loss.get("terms", {})
        rows += [loss_row(f"  {term}", values) for term, values in terms.items() if len(terms) > 1]
    widths = [max(len(row[column]) for row in rows) for column in range(len(LOSS_COLUMNS))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def loss_row(name: str, loss: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of the table."""
    numbers: Iterable[tuple[str, str]] = (("raw", ".4g"), ("coef", ".4g"), ("weighted", ".4g"))
    shares = ("share", "gradient_share")
    return (
        name,
        *(number(loss.get(key), form) for key, form in numbers),
        *(number(loss[key], ".1%") if key in loss else "" for key in shares),
    )


def red_flag_lines(result: RunResult) -> list[str]:
    """All red flags that were raised during the run."""
    if not result.red_flags:
        return ["red flags       none"]
    return [f"red flag        {flag['flag']}: {flag['why']}" for flag in result.red_flags]


def ledger_line(ledger: Mapping[str, Any]) -> str:
    """The number of trajectories by outcome; their sum should be `produced`."""
    if not ledger:
        return "ledger          unknown: the replay server did not answer at the end"
    dropped = ledger.get("dropped", {})
    parts = {"trained": ledger.get("trained", 0), **dropped}
    parts |= {name: ledger.get(name, 0) for name in ("queued", "in_flight", "unsent_at_death", "lost")}
    shown = " + ".join(f"{name} {count}" for name, count in parts.items() if count or name in {"trained", "lost"})
    accounted = sum(parts.values())
    verdict = "" if accounted == ledger.get("produced") else f", but the sum is {accounted}: the ledger does not balance"
    return f"ledger          produced {ledger.get('produced', 0)} = {shown}{verdict}"


def evaluation_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """A checkpoint's evaluation (`Evaluation.to_dict`) as text."""
    got, baseline = evaluation["episode_return"], evaluation["random_return"]
    random = f"; the random policy gets {baseline:g}" if baseline is not None else ""
    shown = "".join(f", {name} {mean:.2f}" for name, mean in evaluation["episode_statistics"].items())
    return [
        f"checkpoint      {evaluation['checkpoint']} ({evaluation['env_steps']:,} env steps)",
        f"episode return  {got['mean']:.2f} +- {got['std']:.2f} over {counted(got['n'], 'episode')}{random}",
        f"an episode      {evaluation['episode_length']:.1f} steps{shown}",
    ]
