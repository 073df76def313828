"""The dashboards are what the generator makes, and keep the rules that Grafana and a reader need."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.generate import FOLDER, rendered
from deploy.grafana.panels import LOSS_COLORS, WHOLE
from tests.deploy.doctor.prometheus_server import SHIPPED
from tests.deploy.prometheus_tools import check, of_run

DASHBOARDS = {name: json.loads(text) for name, text in rendered().items()}


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def test_the_files_are_what_the_generator_makes() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == rendered(), (
        "run python -m deploy.grafana.generate"
    )


def test_the_dashboards_are_the_promised_ones() -> None:
    titles = [board["title"].removeprefix("oatmill / ") for board in DASHBOARDS.values()]
    assert titles == ["Overview", "Runs", "Health", "Losses", "Learning", "Data path", "Fleet", "Process"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_says_what_it_shows(name: str) -> None:
    for panel in panels(name):
        assert panel["type"] in {"timeseries", "stat", "bargauge", "state-timeline", "table"}
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            fixed = "oatmill_episode" in target["expr"]  # over five minutes, see RETURN_MEAN
            assert fixed or "rate(" not in target["expr"] or "[$__rate_interval]" in target["expr"], panel["title"]


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


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_expression_is_of_the_chosen_run(name: str) -> None:
    board = DASHBOARDS[name]
    known = {variable["name"] for variable in board["templating"]["list"]}
    assert known == {"datasource", "namespace", "run", "job"} | ({"price"} if name == "overview.json" else set())
    sign = "=~" if name == "runs.json" else "="
    wanted = f'{{namespace{sign}"$namespace",run{sign}"$run",job=~"$job"'
    expressions = [target["expr"] for panel in panels(name) for target in panel["targets"]]
    for expression in expressions + [one["expr"] for one in board["annotations"]["list"]]:
        if 'alertname="Watchdog"' in expression:
            continue  # it belongs to no run
        if re.search(r"\b(container_|DCGM_)", expression):
            assert "oatmill_" not in expression  # series of other exporters, chosen by their pods or by the label run
            assert expression.count("$run") == expression.count('="$namespace"') > 1, expression
            continue
        metrics = re.findall(r"(?:\boatmill_\w+(?::\w+)?|\bALERTS)(.{0,60})", expression)
        assert metrics, expression
        assert all(rest.startswith(wanted) for rest in metrics), expression


def test_only_the_dashboard_of_runs_shows_several() -> None:
    for name, board in DASHBOARDS.items():
        chosen = {variable["name"]: variable.get("multi") for variable in board["templating"]["list"]}
        assert chosen["namespace"] == chosen["run"] == (name == "runs.json")


def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    expressions = [target["expr"] for name in DASHBOARDS for panel in panels(name) for target in panel["targets"]]
    expressions += [one["expr"] for one in DASHBOARDS["health.json"]["annotations"]["list"]]
    rules = [{"record": f"expression_{number}", "expr": of_run(one, "a")} for number, one in enumerate(expressions)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    check("promtool", "check", "rules", str(path))


def expression(name: str, title: str, legend: str) -> str:
    (found,) = (
        target["expr"]
        for panel in panels(name)
        if panel["title"] == title
        for target in panel["targets"]
        if target["legendFormat"] == legend
    )
    return str(found)


def test_a_dead_role_is_seen_beside_a_healthy_run(tmp_path: Path) -> None:
    def up(run: str, role: str, values: str) -> dict[str, str]:
        return {"series": f'oatmill_up{{job="{role}",run="{run}",role="{role}"}}', "values": values}

    def stopped(run: str, values: str) -> dict[str, str]:
        return {"series": f'oatmill_run_stopped{{job="replay",run="{run}"}}', "values": values}

    def shows(expr: str, samples: dict[str, float]) -> dict[str, Any]:
        return {"expr": expr, "eval_time": "10m", "exp_samples": [{"labels": k, "value": v} for k, v in samples.items()]}

    # Run a is healthy, the learner of run b is gone, runs c and e have ended, and no role of runs d and e is left.
    series = [up(run, "replay", "1x40" if run not in "de" else "1x8 _x32") for run in "abcde"]
    series += [up(run, "learner", "1x40" if run == "a" else "1x8 _x32") for run in "abcde"]
    series += [stopped(run, {"c": "1x40", "d": "0x8 _x32", "e": "0x6 1x1 _x32"}.get(run, "0x40")) for run in "abcde"]
    series += [{"series": f'oatmill_build_info{{job="replay",run="{run}"}}', "values": "1x8 _x32"} for run in "abcde"]
    looks = [
        shows(of_run(expression("health.json", "Roles", role), run), {"{}": value})
        for role, states in (("replay", (1, 1, 1, 0, 2)), ("learner", (1, 0, 2, 0, 2)))
        for run, value in zip("abcde", states, strict=True)
    ]
    looks.append(
        shows(
            of_run(expression("runs.json", "State", "{{namespace}} {{run}}"), ".*"),
            {'{run="a"}': 2, '{run="b"}': 1, '{run="c"}': 3, '{run="d"}': 0, '{run="e"}': 3},
        )
    )
    path = tmp_path / "cases.yml"
    path.write_text(yaml.safe_dump({"tests": [{"interval": "15s", "input_series": series, "promql_expr_test": looks}]}))
    check("promtool", "test", "rules", str(path))


def test_the_mean_return_is_right_where_returns_are_negative_and_after_a_restart(tmp_path: Path) -> None:
    def returned(run: str, total: str, count: str) -> list[dict[str, str]]:
        labels = f'job="replay",run="{run}"'
        return [
            {"series": f"oatmill_episode_return_sum{{{labels}}}", "values": total},
            {"series": f"oatmill_episode_return_count{{{labels}}}", "values": count},
        ]

    # Run a: 20 points lost in each episode; run b: won; run c: restarted two minutes ago; run d: no episode has ended.
    series = returned("a", "-100-20x40", "5+1x40") + returned("b", "100+20x40", "5+1x40")
    series += returned("c", "-100-20x32 200+20x8", "5+1x32 0+1x8") + returned("d", "-60x40", "3x40")
    want = {"a": -20, "b": 20}
    looks = [
        {
            "expr": of_run(expression(name, title, legend), run),
            "eval_time": "10m",
            "exp_samples": [{"labels": f'{{job="replay",run="{run}"}}', "value": want[run]}] if run in want else [],
        }
        for name, title, legend in (
            ("overview.json", "Mean return", "mean return"),
            ("health.json", "Return", "mean"),
            ("learning.json", "Return", "mean"),
        )
        for run in "abcd"
    ]
    both = [{"labels": f'{{run="{run}"}}', "value": value} for run, value in want.items()]
    looks.append(
        {
            "expr": of_run(expression("runs.json", "Return", "{{namespace}} {{run}}"), ".*"),
            "eval_time": "10m",
            "exp_samples": both,
        }
    )
    path = tmp_path / "cases.yml"
    path.write_text(yaml.safe_dump({"tests": [{"interval": "15s", "input_series": series, "promql_expr_test": looks}]}))
    check("promtool", "test", "rules", str(path))


def test_no_expression_takes_the_sum_of_returns_for_a_counter() -> None:
    for name in DASHBOARDS:
        for panel in panels(name):
            for target in panel["targets"]:
                assert not re.search(r"(rate|increase)\(oatmill_episode_return_sum", target["expr"]), panel["title"]


def test_containers_and_gpus_are_those_of_the_runs_pods_or_hosts(tmp_path: Path) -> None:
    def cpu(labels: str) -> dict[str, str]:
        return {"series": f"container_cpu_usage_seconds_total{{{labels}}}", "values": "0+30x40"}  # two cores

    def util(labels: str, percent: int) -> dict[str, str]:
        return {"series": f"DCGM_FI_DEV_GPU_UTIL{{{labels}}}", "values": f"{percent}x40"}

    learner, own = "a-oatmill-learner-1f2e3d-0-x7k2p", 'namespace="monitoring",pod="dcgm-exporter-5kx9z"'
    series = [
        cpu(f'namespace="",pod="{learner}",container="learner",id="/kubepods/1"'),
        cpu(f'namespace="",pod="{learner}",container="",id="/kubepods"'),  # the pod's own sum
        cpu('namespace="",pod="a-oatmill-actor-6d5f-abcde",container="actor"'),
        cpu('namespace="",pod="b-oatmill-actor-6d5f-abcde",container="actor"'),
        cpu('namespace="other",pod="a-oatmill-actor-6d5f-abcde",container="actor"'),
        cpu('run="a",name="oatmill-replay-1"'),  # a host with Compose
        util(f'{own},gpu="0",Hostname="n1",exported_namespace="",exported_pod="{learner}"', 80),
        util(f'gpu="1",Hostname="n1",namespace="",pod="{learner}"', 60),  # with honorLabels
        util(f'{own},gpu="2",Hostname="n1"', 1),  # a GPU that no pod uses
        util('run="a",gpu="0",Hostname="box1"', 40),
        util('run="b",gpu="0",Hostname="box2"', 20),
    ]
    looks: list[tuple[str, str, dict[str, float]]] = [
        (
            "CPU of containers",
            "{{pod}}{{name}}",
            {f'{{pod="{learner}"}}': 2, '{pod="a-oatmill-actor-6d5f-abcde"}': 2, '{name="oatmill-replay-1"}': 2},
        ),
        (
            "GPU utilisation by DCGM",
            "{{pod}}{{Hostname}} GPU {{gpu}}",
            {
                f'{{pod="{learner}",gpu="0"}}': 0.8,
                f'{{pod="{learner}",gpu="1"}}': 0.6,
                '{Hostname="box1",gpu="0"}': 0.4,
            },
        ),
    ]
    tests = [
        {
            "expr": of_run(expression("process.json", title, legend), "a"),
            "eval_time": "10m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
        }
        for title, legend, samples in looks
    ]
    path = tmp_path / "cases.yml"
    path.write_text(yaml.safe_dump({"tests": [{"interval": "15s", "input_series": series, "promql_expr_test": tests}]}))
    check("promtool", "test", "rules", str(path))


def test_panels_that_are_empty_without_a_gpu_or_another_exporter_say_why() -> None:
    for panel in panels("process.json"):
        other = re.search(r"oatmill_gpu_|\bcontainer_|\bDCGM_", " ".join(target["expr"] for target in panel["targets"]))
        assert bool(other) == ("noValue" in panel["fieldConfig"]["defaults"]), panel["title"]


def test_the_data_source_knows_the_scrape_interval() -> None:
    provisioned = yaml.safe_load((FOLDER.parent / "provisioning" / "datasources" / "oatmill.yml").read_text())
    scraped = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert provisioned["datasources"][0]["jsonData"]["timeInterval"] == scraped


def test_quantities_that_can_be_negative_are_not_cut_off_at_zero() -> None:
    # A Gaussian's log std and entropy are below 0 for most of a run.
    negative = ("policy_log_std", "policy_entropy_nats", "cmpo_advantage", "explained_variance", "_return{")
    for name in DASHBOARDS:
        for panel in panels(name):
            text = " ".join(target["expr"] for target in panel["targets"])
            assert not ("min" in panel["fieldConfig"]["defaults"] and any(word in text for word in negative)), panel["title"]
