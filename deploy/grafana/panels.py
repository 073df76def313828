"""What a dashboard is made of, and how that becomes Grafana's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

WIDTH = 24
"""Grafana's grid has this many columns."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
LOSS_COLORS = {
    "ppo_critic": "blue",
    "cmpo": "purple",
    "ppo_actor": "green",
    "muesli_pg": "semi-dark-green",
    "dynamics": "orange",
    "muesli_model": "red",
}
"""A loss has the same colour wherever it is drawn as one line."""
WHOLE = {"whole gradient": "text"}
"""And what stands beside the losses has none of theirs."""
LOSS = "{{loss}}"
"""Stands for a loss's name at the beginning of a legend."""

Steps = Sequence[tuple[float | None, str]]
GOOD: Steps = ((None, "green"),)


@dataclass(frozen=True)
class Query:
    """One PromQL expression and the name that its series get."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel; all of it is content, none of it layout.

    Attributes:
        title: what is seen, without its unit.
        description: what it means and what is normal, in a sentence or two.
        unit: Grafana's name of the unit.
        queries: what is drawn.
        kind: the panel type.
        width: in columns, of 24.
        height: in rows of 30 pixels.
        thresholds: (from, colour), rising; the first from minus infinity.
        bands: draw the thresholds as areas.
        stacked: draw series on top of each other.
        log: a logarithmic axis.
        low: the axis's lower end.
        high: its upper end.
        decimals: digits behind the point.
        dashed: the legend of series that are a limit, or the second kind of two, drawn dashed.
        texts: words that stand for values.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Literal["timeseries", "stat", "bargauge"] = "timeseries"
    width: int = 12
    height: int = 8
    thresholds: Steps = GOOD
    bands: bool = False
    stacked: bool = False
    log: bool = False
    low: float | None = None
    high: float | None = None
    decimals: int | None = None
    dashed: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A heading above the panels that follow."""

    title: str


@dataclass(frozen=True)
class Dashboard:
    """One file."""

    name: str
    title: str
    description: str
    panels: Sequence[Panel | Row]


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """Grafana's model of a dashboard, with panels laid out from left to right and downwards."""
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
        "templating": {"list": [_datasource_variable()]},
        "links": [_links()],
        "annotations": {"list": []},
        "panels": _placed(dashboard.panels),
    }


def _datasource_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
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


def _placed(panels: Sequence[Panel | Row]) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    x = y = below = 0
    for number, panel in enumerate(panels, start=1):
        width, height = (WIDTH, 1) if isinstance(panel, Row) else (panel.width, panel.height)
        if x + width > WIDTH or isinstance(panel, Row):
            x, y = 0, below
        position = {"x": x, "y": y, "w": width, "h": height}
        body = (
            {"type": "row", "title": panel.title, "collapsed": False, "panels": []} if isinstance(panel, Row) else _body(panel)
        )
        placed.append({"id": number, "gridPos": position} | body)
        below = max(below, y + height)
        x += width
    return placed


def _body(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": _thresholds(panel.thresholds), "color": _color(panel)}
    limits = {"min": panel.low, "max": panel.high, "decimals": panel.decimals}
    defaults |= {name: value for name, value in limits.items() if value is not None}
    if panel.texts:
        words = {value: {"text": text, "index": index} for index, (value, text) in enumerate(panel.texts.items())}
        defaults["mappings"] = [{"type": "value", "options": words}]
    if panel.kind == "timeseries":
        defaults["custom"] = _drawing(panel)
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "targets": [_target(number, query) for number, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _options(panel.kind),
    }


def _target(number: int, query: Query) -> dict[str, Any]:
    return {
        "refId": chr(ord("A") + number),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "range": True,
        "instant": False,
    }


def _thresholds(steps: Steps) -> dict[str, Any]:
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def _color(panel: Panel) -> dict[str, str]:
    return {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"}


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
    """The losses' colours, and the dashed limit."""
    if panel.kind != "timeseries":
        return []
    found = []
    # The terms of one loss would not be told apart in one colour: such a panel keeps Grafana's own.
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
        names = [panel.dashed.replace(LOSS, loss) for loss in LOSS_COLORS] if LOSS in panel.dashed else [panel.dashed]
        found += [_override(name, style | {"custom.fillOpacity": 0}) for name in names]
    return found


def _override(name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "timeseries":
        return {
            "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    reduced = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    if kind == "stat":
        look = {"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "textMode": "value", "wideLayout": True}
        return reduced | look | {"orientation": "auto"}
    look = {"displayMode": "gradient", "orientation": "horizontal", "showUnfilled": True, "valueMode": "color"}
    return reduced | look | {"namePlacement": "auto", "sizing": "auto"}
