"""The variables that choose a run, the filter of each query by them, and the annotations that all dashboards have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN_BY = "oatmill_build_info"
"""Every role exports this series, so its labels are those by which runs differ."""
SERIES = re.compile(r"((?:\b(?:term|loss):)?\boatmill_\w+(?::\w+)?|\bALERTS)(\{)?")
"""A metric in an expression, and the bracket of its labels if it has some."""
ANNOTATIONS = (
    ("Process started", "max by (process) (oatmill_process_start_time_seconds) * 1000", "{{process}}", "blue"),
    ("Checkpoint", "max(oatmill_learner_last_checkpoint_timestamp_seconds > 0) * 1000", "", "green"),
    ("Checkpoint failed", "changes(oatmill_checkpoint_failures_total[$__rate_interval]) > 0", "", "red"),
    ("Actor restarted", "changes(oatmill_actor_restarts_total[$__rate_interval]) > 0", "", "orange"),
    ("Number of actors changed", "changes(oatmill_actors_expected[$__rate_interval]) > 0", "", "purple"),
    ("Coefficient changed", "changes(oatmill_loss_coefficient[$__rate_interval]) > 0", "{{loss}} {{term}}", "yellow"),
)
"""Name, expression, text and colour. An expression that ends with `* 1000` gives the time in milliseconds."""
OFF = {"Checkpoint", "Coefficient changed"}
"""Annotations that are drawn only when a reader switches them on: a run can have hundreds of them."""


def filtered(expr: str, *, several: bool) -> str:
    """An expression with each metric restricted to the chosen run.

    Args:
        expr: PromQL.
        several: whether the dashboard shows several runs.
    """
    sign = "=~" if several else "="
    chosen = f'namespace{sign}"$namespace",run{sign}"$run",job=~"$job"'
    return SERIES.sub(lambda found: f"{found[1]}{{{chosen}{',' if found[2] else '}'}", expr)


def variables(*, several: bool) -> list[dict[str, Any]]:
    """The data source, and the labels that choose the run or, with `several`, the runs.

    Without a choice of several, a label that no series has is an empty text, which matches its absence.
    """
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    shared = {"hide": 0, "options": [], "regex": ""}
    return [
        source | shared | {"current": {}, "includeAll": False, "multi": False, "refresh": 1},
        shared | _label("namespace", "Namespace", "", several=several),
        shared | _label("run", "Run", '{namespace=~"$namespace"}', several=several),
        shared | _label("job", "Job", '{namespace=~"$namespace",run=~"$run"}', several=True),
    ]


def text_boxes(inputs: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Variables that the reader enters; see Dashboard."""
    return [
        {"name": name, "label": label, "type": "textbox", "query": value, "hide": 0, "current": {"text": value, "value": value}}
        for name, (label, value) in inputs.items()
    ]


def _label(name: str, title: str, within: str, *, several: bool) -> dict[str, Any]:
    query = f"label_values({CHOSEN_BY}{within}, {name})"
    variable = {
        "name": name,
        "label": title,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": several,
        "includeAll": several,
        "current": {"text": "All", "value": "$__all"} if several else {},
    }
    return variable | ({"allValue": ".*"} if several else {})


def marks(*, several: bool) -> list[dict[str, Any]]:
    """Marks on the time axis for events."""
    return [
        {
            "name": name,
            "datasource": DATASOURCE,
            "enable": name not in OFF,
            "hide": False,
            "iconColor": color,
            "expr": filtered(expr, several=several),
            "titleFormat": name,
            "textFormat": text,
            "useValueForTime": "on" if expr.endswith("* 1000") else False,
        }
        for name, expr, text, color in ANNOTATIONS
    ]
