"""The dashboards are what the generator makes, and keep the rules that Grafana and a reader need."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from deploy.grafana.generate import FOLDER, rendered
from deploy.grafana.panels import LOSS_COLORS, WHOLE
from tests.deploy.doctor.prometheus_server import SHIPPED

DASHBOARDS = {name: json.loads(text) for name, text in rendered().items()}


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def test_the_files_are_what_the_generator_makes() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == rendered(), (
        "run python -m deploy.grafana.generate"
    )


def test_the_dashboards_are_the_promised_ones() -> None:
    titles = [board["title"].removeprefix("oatmill / ") for board in DASHBOARDS.values()]
    assert titles == ["Health", "Losses", "Learning", "Data path", "Fleet", "Process"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_says_what_it_shows(name: str) -> None:
    for panel in panels(name):
        assert panel["type"] in {"timeseries", "stat", "bargauge"}
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert "rate(" not in target["expr"] or "[$__rate_interval]" in target["expr"], panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_loss_has_one_colour_wherever_it_is_one_line(name: str) -> None:
    for panel in panels(name):
        fixed = {
            (override["matcher"]["options"], entry["value"]["fixedColor"])
            for override in panel["fieldConfig"]["overrides"]
            for entry in override["properties"]
            if entry["id"] == "color" and override["matcher"]["options"] not in WHOLE
        }
        legends = {target["legendFormat"] for target in panel["targets"]}
        per_loss = {legend for legend in legends if legend.startswith("{{loss}}") and "{{term}}" not in legend}
        assert fixed == {
            (legend.replace("{{loss}}", loss), colour) for legend in per_loss for loss, colour in LOSS_COLORS.items()
        }


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_beside_each_other(name: str) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        own = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own
    ids = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    assert len(ids) == len(set(ids))


def test_the_data_source_knows_the_scrape_interval() -> None:
    provisioned = yaml.safe_load((FOLDER.parent / "provisioning" / "datasources" / "oatmill.yml").read_text())
    scraped = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert provisioned["datasources"][0]["jsonData"]["timeInterval"] == scraped
