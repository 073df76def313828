"""Reads a run from a Prometheus that scrapes its learner, as lines like those of metrics.jsonl."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from deploy.doctor.examined_run import ExaminedRun
from deploy.doctor.prometheus_api import Prometheus, Series
from learner.loss_descriptor import BUILT_IN, LossDescriptor
from oatmill.errors import UserError
from protocol.data.trajectory import AGENT_SPREAD

REMEMBERED = "15d"
"""How far back to look for a run that has ended; Prometheus keeps this much by default."""
LIVE_S = 60.0
"""A learner that finished a step within this time is training; `LearnerStalled` has the same limit."""
LAST_SCRAPE_S = 60.0
"""The learner's series are scraped once more after its last step."""
A_DAY_S = 86400.0
"""The time to look at if it is unknown when the learner was started."""
MOST_LINES = 2000
SETTING, INFO, UPDATED, STARTED = (
    "oatmill_setting",
    "oatmill_loss_info",
    "oatmill_learner_last_update_timestamp_seconds",
    "oatmill_process_start_time_seconds",
)
OF_THE_LEARNER = (
    "oatmill_(loss|loss_coefficient|loss_share|loss_gradient_share|loss_nonfinite_total|policy_entropy_nats|policy_entropy_ratio"
    "|explained_variance|return_steps|approx_kl|red_flag|red_flag_reports_total|policy_version|progress_ratio|learner_step_seconds_sum)"
)
OF_ONE_PROCESS = {"instance", "job", "pod", "container", "service", "endpoint", "node"}
"""Labels that differ between a run's learner and its replay server."""
MEDIAN = {"quantile": "0.5"}
"""The median of the last 100 episodes' returns. Prometheus has their mean only over the whole run."""
KEYS = ("loss", "term", "flag", "phase", "data")
"""The labels that distinguish a metric's series, in this order."""
VERSION = ("policy_version",)
Readings = Mapping[tuple[str, ...], float]
"""The values at one time, by the metric's name and the values of `KEYS`."""


def examined_learner(url: str, matchers: Sequence[str] = ()) -> ExaminedRun:
    """Read the run whose learner trained last, from the start of that learner's process.

    Args:
        url: the address of the Prometheus server.
        matchers: labels as `label=value`, to choose a run if the server scrapes several.

    Raises:
        UserError: if the server does not answer, or if it knows no learner or several that train now.
    """
    server, wanted = Prometheus(url), dict(map(matcher, matchers))
    learner, ended = newest_learner(server, wanted)
    settings = {one.labels["setting"]: one.last for one in server.now(lately(SETTING, learner))}
    if not settings:
        raise UserError(f"the learner at {named(learner)} exports no {SETTING}; its version is older than this command")
    starts = server.now(lately(STARTED, {**learner, "process": "learner"}))
    started = max((one.last for one in starts), default=ended - A_DAY_S)
    end = min(time.time(), ended + LAST_SCRAPE_S)
    step = max(1.0, math.ceil((end - started) / MOST_LINES))
    found = server.between(f"{{__name__=~{json.dumps(OF_THE_LEARNER)},{where(learner)}}}", started, end, step)
    both = {name: value for name, value in learner.items() if name not in OF_ONE_PROCESS}
    returns = server.between(f"max(oatmill_episode_return{{{where(both | MEDIAN)}}})", started, end, step)
    differ = both | {"name": AGENT_SPREAD}
    spreads = server.between(f"max(oatmill_episode_info{{{where(differ)}}})", started, end, step)
    mean, spread = (one[0].values if one else {} for one in (returns, spreads))
    lines = lines_of(found, mean, spread, settings)
    if not lines:
        raise UserError(f"the learner at {named(learner)} has been scraped, but it has not reported a learner step yet")
    roles = {
        one.labels["loss"]: LossDescriptor(one.labels["loss"], role=role_of(one)) for one in server.now(lately(INFO, learner))
    }
    run = ExaminedRun(f"learner {named(learner)}", lines, settings, own={**roles, **BUILT_IN})
    scraped = bool(server.now(f"{UPDATED}{{{where(learner)}}}"))
    trouble, remark = standing(time.time() - ended, run.progress, scraped=scraped)
    return replace(run, trouble=trouble, remark=remark)


def standing(silent_s: float, spent: float, *, scraped: bool) -> tuple[str, str]:
    """The problem of a learner without new steps, or a remark about one that has ended; one is empty.

    Args:
        silent_s: seconds since the last learner step.
        spent: the fraction of the budget that was spent by then.
        scraped: whether the learner can still be scraped.
    """
    if silent_s <= LIVE_S or spent >= 1:
        return "", ""
    where_it_was = f"{silent_s:,.0f} s ago, at {spent:.0%} of the budget"
    if scraped:
        return f"the last learner step ended {where_it_was}; the learner still runs, but does not train", ""
    return "", f"the learner was last seen {where_it_was}; Prometheus does not know whether it finished, stopped or crashed"


def matcher(text: str) -> tuple[str, str]:
    """Split `label=value`.

    Raises:
        UserError: if the text has another form.
    """
    label, equals, value = text.partition("=")
    if not equals or not label.isidentifier():
        raise UserError(f"--match must be LABEL=VALUE, such as namespace=cogs, got {text!r}")
    return label, value


def newest_learner(server: Prometheus, wanted: Mapping[str, str]) -> tuple[Mapping[str, str], float]:
    """The labels of the learner with the most recent step, and the time of that step.

    Raises:
        UserError: if there is no learner, or if several train now.
    """
    found = sorted((one for one in server.now(lately(UPDATED, wanted)) if one.last > 0), key=lambda one: one.last)
    if not found:
        which = f" with {where(wanted)}" if wanted else ""
        raise UserError(f"{server.url} knows no learner{which} that has trained; see docs/operations/monitoring.md")
    live = [named(one.labels) for one in found if one.last > time.time() - LIVE_S]
    if len(live) > 1:
        raise UserError(f"{len(live)} learners train now: {', '.join(live)}; choose one by --match LABEL=VALUE")
    return {name: value for name, value in found[-1].labels.items() if name != "__name__"}, found[-1].last


def named(labels: Mapping[str, str]) -> str:
    """The labels that identify a learner."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()) if name not in {"__name__", "job"})


def where(labels: Mapping[str, str]) -> str:
    """Labels as PromQL matchers."""
    return ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items())


def lately(metric: str, labels: Mapping[str, str]) -> str:
    """A query for the last value of each series, also of series that have ended."""
    return f"last_over_time({metric}{{{where(labels)}}}[{REMEMBERED}])"


def lines_of(
    found: Iterable[Series], returns: Mapping[float, float], spreads: Mapping[float, float], settings: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One line for each time at which the policy had changed.

    Args:
        found: the learner's series.
        returns: the return by time, where it is known.
        spreads: the standard deviation over the agents' returns by time, where there are several agents.
        settings: the run's settings that are numbers.
    """
    readings: dict[float, dict[tuple[str, ...], float]] = {}
    for one in found:
        key = (one.name.removeprefix("oatmill_"), *(one.labels[name] for name in KEYS if name in one.labels))
        for moment, value in one.values.items():
            readings.setdefault(moment, {})[key] = value
    lines: list[dict[str, Any]] = []
    before: Readings = {}
    for moment in sorted(readings):
        now = readings[moment]
        if now.get(VERSION) == before.get(VERSION):
            continue
        line = line_of(now, before, settings)
        if line["losses"]:  # none has a coefficient before the first report, whatever steps there were
            statistics = {AGENT_SPREAD: spreads[moment]} if moment in spreads else {}
            lines.append(line | {"episode_return": {"mean": returns.get(moment, math.nan)}, "episode_statistics": statistics})
            before = now
    return lines


def line_of(now: Readings, before: Readings, settings: Mapping[str, float]) -> dict[str, Any]:
    """A line like one of metrics.jsonl, with the parts that the doctor needs."""

    def value(*key: str) -> float:
        return now.get(key, math.nan)

    def more(name: str) -> dict[str, float]:
        """The increase of each of a counter's series."""
        return {key[1]: total - before.get(key, 0.0) for key, total in now.items() if key[0] == name}

    enabled = {key[1] for key, coefficient in now.items() if key[0] == "loss_coefficient" and coefficient}
    losses = {name: {key[2]: number for key, number in now.items() if key[:2] == ("loss", name)} for name in sorted(enabled)}
    for name, entry in losses.items():
        entry |= {kind: value(f"loss_{kind}", name) for kind in ("share", "gradient_share")}
    seconds = more("learner_step_seconds_sum")
    flags = {flag: reports + value("red_flag", flag) for flag, reports in more("red_flag_reports_total").items()}
    spent, updates = sum(seconds.values()), settings["trainer.epochs"] * settings["trainer.minibatches"]
    return {
        "env_steps": value("progress_ratio") * settings["trainer.total_timesteps"],
        "losses": losses,
        "entropy": {"nats": value("policy_entropy_nats"), "fraction": value("policy_entropy_ratio")},
        "explained_variance": value("explained_variance"),
        "return_steps": {data: value("return_steps", data) for data in ("fresh", "replayed", "on_policy")},
        "approx_kl": value("approx_kl"),
        # Each learner step has one version; a run's first learner starts at version 1.
        "updates": updates * (value(*VERSION) - before.get(VERSION, 1.0)),
        "skipped_updates": max(more("loss_nonfinite_total").values(), default=0.0),
        "wait_fraction": seconds.get("wait", math.nan) / spent if spent else math.nan,
        "red_flags": [flag for flag, times in flags.items() if times > 0],
    }


def role_of(info: Series) -> Literal["critic", "policy", "auxiliary"]:
    """The role that a learner exports for a loss."""
    role = info.labels.get("role")
    return "critic" if role == "critic" else "policy" if role == "policy" else "auxiliary"
