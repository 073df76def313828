"""The shipped Prometheus and Alertmanager files under their own tools; each alert is raised, is not raised, and has a page."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from learner.loss_descriptor import MUESLI_RATIO
from learner.reporting import red_flags
from tests.deploy.doctor.prometheus_server import SHIPPED
from tests.deploy.prometheus_tools import check

CASES = sorted((Path(__file__).parent / "prometheus").glob("*.yaml"))
PAGE = Path(__file__).parents[2] / "docs" / "operations" / "alerts.md"
ALWAYS = {"Watchdog"}
"""Alerts that no input keeps from being raised."""


def rules(kind: str) -> list[dict[str, Any]]:
    """The shipped rules of a kind, `alert` or `record`."""
    groups = [group for path in (SHIPPED / "rules").iterdir() for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


ALERTS = {rule["alert"]: rule for rule in rules("alert")}


def test_the_alerts_are_the_promised_ones() -> None:
    assert set(ALERTS) == {
        "LearnerStalled",
        "LossDominates",
        "LossNonFinite",
        "CheckpointFailed",
        "MuesliRatioOutOfRange",
        "EntropyCollapsed",
        "EntropyHigh",
        "ExplainedVarianceNegative",
        "LossSpike",
        "ActorsMissing",
        "ActorSilent",
        "ReplayStarved",
        "ReplayLogStalled",
        "ReplayLogDamaged",
        "PolicyLagHigh",
        "TargetDown",
        "Watchdog",
    }


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_rules_do_what_the_cases_say(path: Path) -> None:
    check("promtool", "test", "rules", str(path))


def test_the_configurations_are_valid() -> None:
    check("promtool", "check", "config", str(SHIPPED / "prometheus.yml"))
    check("promtool", "check", "rules", *map(str, sorted((SHIPPED / "rules").iterdir())))


def test_alertmanager_takes_its_configuration() -> None:
    check("amtool", "check-config", str(SHIPPED / "alertmanager.yml"))


def test_every_alert_has_a_case_that_raises_it_and_one_that_does_not() -> None:
    raised: set[str] = set()
    quiet = set(ALWAYS)
    for path in CASES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for look in case.get("alert_rule_test", ()):
                (raised if look["exp_alerts"] else quiet).add(look["alertname"])
    assert raised == set(ALERTS)
    assert quiet == set(ALERTS)


def test_every_recording_rule_has_a_case() -> None:
    wanted = {rule["record"] for rule in rules("record")}
    cases = (Path(__file__).parent / "prometheus" / "recording.yaml").read_text()
    looked_at = set(re.findall(r"expr: .*?((?:term:|loss:)?oatmill_\w+:\w+)", cases))
    assert looked_at == wanted


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_its_page(name: str) -> None:
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section, f"docs/operations/alerts.md lacks the section {name}"
    for part in ("**Symptom**", "**Meaning**", "**What to do**", "**How to verify**"):
        assert part in section.group(1), f"{name} lacks {part}"
    assert ALERTS[name]["annotations"]["runbook_url"] == f"docs/operations/alerts.md#{name.lower()}"
    assert ALERTS[name]["labels"]["severity"] in {"critical", "warning", "info", "none"}


def test_the_page_has_no_section_without_an_alert() -> None:
    assert set(re.findall(r"^## (\w+)$", PAGE.read_text(), re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("LossDominates", "loss_dominates"),
        ("MuesliRatioOutOfRange", "muesli_ratio"),
        ("EntropyCollapsed", "entropy_collapsed"),
        ("EntropyHigh", "entropy_high"),
        ("ExplainedVarianceNegative", "explained_variance_negative"),
        ("LossSpike", "loss_spike"),
    ],
)
def test_an_alert_about_training_follows_its_red_flag(name: str, flag: str) -> None:
    assert f'flag="{flag}"' in ALERTS[name]["expr"]
    assert flag in red_flags.FLAGS


OF_ROLES = ("TargetDown", "LearnerStalled", "ActorsMissing", "ActorSilent", "ReplayStarved", "ReplayLogStalled")


@pytest.mark.parametrize("name", OF_ROLES)
def test_nothing_is_expected_of_a_run_that_has_ended(name: str) -> None:
    assert ALERTS[name]["expr"].endswith("unless on (namespace, run) (oatmill_run_stopped == 1)")


def test_one_run_does_not_mute_the_alerts_of_another() -> None:
    config = yaml.safe_load((SHIPPED / "alertmanager.yml").read_text())
    assert config["route"]["group_by"] == ["alertname", "namespace", "run"]
    assert "inhibit_rules" not in config, "an alert that ends while it is inhibited is not told about, and neither is the next"


def test_compose_gives_targets_the_name_of_the_run(tmp_path: Path) -> None:
    service = yaml.safe_load((SHIPPED.parent / "compose.yaml").read_text())["services"]["prometheus"]
    # What the container does, with its folders here and without the server.
    (script,) = service["command"]
    folders = {"$$": "$", "/etc/prometheus": str(SHIPPED), "/tmp/": f"{tmp_path}/", "exec prometheus": "exec echo"}
    for old, new in folders.items():
        script = script.replace(old, new)
    page = "https://docs.example.org/operations/alerts/"
    environ = {"OATMILL_RUN": "cogs-v_2.x", "OATMILL_RETENTION": "15d", "OATMILL_RUNBOOKS": page, "PATH": os.environ["PATH"]}
    said = subprocess.run([*service["entrypoint"], script], env=environ, capture_output=True, text=True, check=True).stdout
    assert f"--config.file={tmp_path}/prometheus.yml" in said
    assert "--storage.tsdb.retention.time=15d" in said
    config = yaml.safe_load((tmp_path / "prometheus.yml").read_text())
    assert config["rule_files"] == [f"{tmp_path}/rules/*.yml"]
    assert {path.name for path in (tmp_path / "rules").iterdir()} == {path.name for path in (SHIPPED / "rules").iterdir()}
    written = (tmp_path / "rules" / "alerts.yml").read_text()
    assert written == (SHIPPED / "rules" / "alerts.yml").read_text().replace("docs/operations/alerts.md#", f"{page}#")
    labels = {job["job_name"]: job["static_configs"][0].get("labels") for job in config["scrape_configs"]}
    own = {"run": "cogs-v_2.x"}
    assert labels == {"replay": own, "learner": own, "prometheus": None, "alertmanager": None}
    check("promtool", "check", "config", str(tmp_path / "prometheus.yml"))


def test_thresholds_are_those_of_the_red_flags() -> None:
    def bound(name: str, pattern: str) -> float:
        found = re.search(pattern, ALERTS[name]["expr"])
        assert found, name
        return float(found.group(1))

    near = red_flags.NEAR * red_flags.DOMINATES
    assert bound("LossDominates", r"mean5m > ([\d.]+)") == near
    assert bound("LossDominates", r"last\{.*?\} > ([\d.]+)") == near
    assert bound("MuesliRatioOutOfRange", r"> ([\d.]+)") == MUESLI_RATIO[1]
    assert bound("LossSpike", r">= ([\d.]+)") == red_flags.SPIKES
    assert f"{red_flags.COMPARABLE}" in next(
        r["expr"] for r in rules("record") if r["record"].startswith("loss:oatmill_loss_times")
    )
