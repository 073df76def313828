"""The parts of a dashboard, and their conversion to Grafana's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deploy.grafana.variables import DATASOURCE, filtered, marks, text_boxes, variables
from learner.loss_descriptor import BUILT_IN, loss_colors

WIDTH = 24
"""Grafana's grid has this many columns."""
LOSS_COLORS = loss_colors(BUILT_IN)
"""A loss has the same colour in all panels. For a user's own loss, Grafana chooses the colour by its name,
which is also the same in all panels."""
WHOLE = {"whole gradient": "text"}
"""Series that are not losses but are drawn with them, with a colour that no loss has."""
LOSS = "{{loss}}"
"""The placeholder for a loss's name. Legends begin with it."""

Steps = Sequence[tuple[float | None, str]]
GOOD: Steps = ((None, "green"),)
ZERO_IS_GOOD: Steps = ((None, "green"), (1, "red"))


@dataclass(frozen=True)
class Query:
    """One PromQL expression, and the legend of its series.

    `every_run`: the expression is not restricted to the chosen run.
    """

    expr: str
    legend: str = ""
    every_run: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel: its content, without its position.

    Attributes:
        title: what the panel shows, without the unit.
        description: what the numbers mean and which are normal, in one or two sentences.
        unit: the unit, by Grafana's name.
        queries: the series to draw.
        kind: the panel type.
        width: the width in columns; a dashboard has 24.
        height: the height in rows of 30 pixels.
        thresholds: pairs of a lower bound and a colour, in ascending order; the first bound is None,
            which is minus infinity.
        bands: whether the thresholds are drawn as coloured areas.
        stacked: whether the series are stacked.
        log: whether the axis is logarithmic.
        low: the lower end of a linear axis; None lets Grafana choose.
        high: the upper end of the axis.
        decimals: the number of digits after the decimal point.
        dashed: the legend of the series that is drawn as a dashed line, such as a limit.
        texts: a word for each value that is shown as a word.
        repeat: the variable for each of whose values the panel is drawn once, two in a row; empty for one panel.
        empty: what is written in place of series if there are none, which is normal for some runs.
        columns: of a table, the label in each column and its heading.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Literal["timeseries", "stat", "bargauge", "state-timeline", "table"] = "timeseries"
    width: int = 12
    height: int = 8
    thresholds: Steps = GOOD
    bands: bool = False
    stacked: bool = False
    log: bool = False
    low: float | None = 0
    high: float | None = None
    decimals: int | None = None
    dashed: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    repeat: str = ""
    empty: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A heading above the panels that follow."""

    title: str


@dataclass(frozen=True)
class Dashboard:
    """One dashboard, which becomes one file. It shows one run or, with `several`, all chosen ones.

    `inputs` are numbers that the reader enters: label and default, by the variable's name.
    The expressions of its panels do not name the run: the filter is added to each metric.
    """

    name: str
    title: str
    description: str
    panels: Sequence[Panel | Row]
    several: bool = False
    inputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def reported(expr: str) -> str:
    """A gauge of the learner without the time before its first report, in which it is 0."""
    return f"{expr} and on (namespace, run) (oatmill_learner_steps_total > 0)"


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard in Grafana's JSON model. Panels are placed from left to right, and then from top to bottom."""
    return {
        "uid": f"oatmill-{dashboard.name}",
        "title": f"oatmill / {dashboard.title}",
        "description": dashboard.description,
        "tags": ["oatmill"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [*variables(several=dashboard.several), *text_boxes(dashboard.inputs)]},
        "links": [_links()],
        "annotations": {"list": marks(several=dashboard.several)},
        "panels": _placed(dashboard),
    }


def _links() -> dict[str, Any]:
    return {
        "title": "oatmill",
        "type": "dashboards",
        "tags": ["oatmill"],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def _placed(dashboard: Dashboard) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    x = y = below = 0
    for number, panel in enumerate(dashboard.panels, start=1):
        width, height = (WIDTH, 1) if isinstance(panel, Row) else (panel.width, panel.height)
        if x + width > WIDTH or isinstance(panel, Row):
            x, y = 0, below
        position = {"x": x, "y": y, "w": width, "h": height}
        body = (
            {"type": "row", "title": panel.title, "collapsed": False, "panels": []}
            if isinstance(panel, Row)
            else _body(panel, several=dashboard.several)
        )
        placed.append({"id": number, "gridPos": position} | body)
        below = max(below, y + height)
        x += width
    return placed


def _body(panel: Panel, *, several: bool) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": _thresholds(panel.thresholds), "color": _color(panel)}
    limits = {"min": None if panel.log else panel.low, "max": panel.high, "decimals": panel.decimals}
    defaults |= {name: value for name, value in limits.items() if value is not None}
    if panel.empty:
        defaults["noValue"] = panel.empty
    if panel.texts:
        words = {value: {"text": text, "index": index} for index, (value, text) in enumerate(panel.texts.items())}
        defaults["mappings"] = [{"type": "value", "options": words}]
    if panel.kind == "timeseries":
        defaults["custom"] = _drawing(panel)
    if panel.kind == "state-timeline":
        defaults["custom"] = {"lineWidth": 0, "fillOpacity": 80}
    table = {"transformations": _table(panel.columns)} if panel.kind == "table" else {}
    repeated = {"repeat": panel.repeat, "repeatDirection": "h", "maxPerRow": 2} if panel.repeat else {}
    return (
        repeated
        | table
        | {
            "type": panel.kind,
            "title": panel.title,
            "description": panel.description,
            "datasource": DATASOURCE,
            "targets": [_target(number, query, panel.kind, several=several) for number, query in enumerate(panel.queries)],
            "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
            "options": _options(panel),
        }
    )


def _target(number: int, query: Query, kind: str, *, several: bool) -> dict[str, Any]:
    now = {"format": "table", "range": False, "instant": True} if kind == "table" else {"range": True, "instant": False}
    return {
        "refId": chr(ord("A") + number),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr if query.every_run else filtered(query.expr, several=several),
        "legendFormat": query.legend,
        **now,
    }


def _table(columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """The transformation that keeps the named labels as columns, in their order."""
    order = {label: place for place, label in enumerate(columns)}
    kept = {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}}
    named = {"indexByName": order, "renameByName": dict(columns), "excludeByName": {}}
    return [kept, {"id": "organize", "options": named}]


def _thresholds(steps: Steps) -> dict[str, Any]:
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def _color(panel: Panel) -> dict[str, str]:
    if panel.kind != "timeseries":
        return {"mode": "thresholds"}
    by_loss = any(LOSS in query.legend for query in panel.queries)
    return {"mode": "palette-classic-by-name" if by_loss else "palette-classic"}


def _drawing(panel: Panel) -> dict[str, Any]:
    return {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1 if panel.stacked else 2,
        "fillOpacity": 60 if panel.stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "axisPlacement": "auto",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if panel.log else {"type": "linear"},
        "thresholdsStyle": {"mode": "area" if panel.bands else "off"},
    }


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """The overrides that set the losses' colours and the dashed lines."""
    if panel.kind != "timeseries":
        return []
    found = []
    # The terms of one loss need different colours, so such a panel keeps Grafana's colours.
    for suffix in (legend.removeprefix(LOSS) for query in panel.queries if LOSS in (legend := query.legend)):
        for loss, color in LOSS_COLORS.items() if "{{" not in suffix else ():
            found.append(_override(f"{loss}{suffix}", {"color": {"mode": "fixed", "fixedColor": color}}))
    found += [
        _override(query.legend, {"color": {"mode": "fixed", "fixedColor": WHOLE[query.legend]}})
        for query in panel.queries
        if query.legend in WHOLE
    ]
    if panel.dashed:
        style = {"custom.lineStyle": {"fill": "dash", "dash": [10, 10]}, "custom.stacking": {"mode": "none"}}
        found.append(_override(panel.dashed, style | {"custom.fillOpacity": 0}))
    return found


def _override(name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    ending = name.removeprefix(LOSS)
    losses = {"id": "byRegexp", "options": f"/.+{ending}$/"}  # all losses, including a user's own
    return {
        "matcher": losses if ending != name else {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        return {
            "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind == "state-timeline":
        return {
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "single", "sort": "none"},
            "mergeValues": True,
            "showValue": "never",
            "alignValue": "left",
            "rowHeight": 0.9,
        }
    if panel.kind == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    reduced = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    if panel.kind == "stat":
        several = len(panel.queries) > 1 or any("{{" in query.legend for query in panel.queries)
        text = "value_and_name" if several else "value"
        look = {"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "textMode": text, "wideLayout": True}
        return reduced | look | {"orientation": "auto"}
    look = {"displayMode": "gradient", "orientation": "horizontal", "showUnfilled": True, "valueMode": "color"}
    return reduced | look | {"namePlacement": "auto", "sizing": "auto"}
