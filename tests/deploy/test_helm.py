"""The Helm chart: what it renders is valid Kubernetes, wrong values are refused, and it says what the CLI knows."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from deploy.cli.app import app
from deploy.health import DEFAULT_PORT, HEARTBEAT, PORT
from replay.addresses import DEFAULT_PORT as DATA_PORT
from replay.addresses import SOCKETS

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "k8s"
TEMPLATES = {path.stem: path.read_text() for path in (CHART / "templates").glob("*.yaml")}
KUBERNETES = "1.29"

GPUS_ON_THREE_HOSTS = """
learner: {pods: 3, gpus: 1, storage: {accessMode: ReadWriteMany, className: nfs}}
actor: {autoscaling: {enabled: true, minReplicas: 2, maxReplicas: 9}}
networkPolicy: {operatorsFrom: [{ipBlock: {cidr: 198.18.0.0/15}}], metricsFrom: [{namespaceSelector: {}}]}
monitoring: {serviceMonitor: {enabled: true, labels: {release: prometheus}}}
"""
GPUS_ON_ONE_HOST = """
learner: {ranksPerPod: 4, gpus: 4, nodeSelector: {gpu: a}, tolerations: [{key: gpu, operator: Exists}]}
run: {config: {trainer: {batch_size: 64, total_timesteps: 5000}}, preset: ""}
"""
WITHOUT_KEYS = "insecure: true\nnetworkPolicy: {enabled: false}\nactor: {replicas: 0}\n"


# ---------------------------------------------------------------------------------------------- what needs no helm


def test_the_schema_knows_every_value_and_no_other() -> None:
    def names(values: dict[str, Any]) -> Iterator[str]:
        for name, value in values.items():
            yield name
            if isinstance(value, dict):
                yield from (f"{name}.{below}" for below in names(value))

    def known(schema: dict[str, Any]) -> Iterator[str]:
        reference = schema.get("$ref")
        if reference:
            schema = whole["definitions"][reference.rpartition("/")[2]]
        for name, value in schema.get("properties", {}).items():
            yield name
            yield from (f"{name}.{below}" for below in known(value))

    whole = json.loads((CHART / "values.schema.json").read_text())
    free = ("resources.requests.", "resources.limits.")  # cpu, memory: names of the cluster's own
    told = {
        name for name in names(yaml.safe_load((CHART / "values.yaml").read_text())) if not any(part in name for part in free)
    }
    roots = {f"run.config.{root}" for root in ("env", "agent", "actors", "replay", "trainer", "metrics")}
    assert set(known(whole)) - told == {"global"} | roots
    assert told <= set(known(whole))


def test_the_chart_is_of_the_packages_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["appVersion"], chart["version"]) == (version, version)


@pytest.mark.parametrize("role", ["replay", "learner", "actor"])
def test_a_roles_arguments_are_options_of_its_command(role: str) -> None:
    used = set(re.findall(r"^\s+- (--[a-z-]+)", TEMPLATES[role], re.MULTILINE))
    command: Any = get_command(app).commands[role]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert used
    assert used <= known


def test_ports_and_variables_are_those_of_the_roles() -> None:
    ports = dict(re.findall(r"{name: (\w+), containerPort: (\d+)}", TEMPLATES["replay"]))
    wanted = {name: str(DATA_PORT + offset) for offset, name in enumerate(SOCKETS)} | {"metrics": str(DEFAULT_PORT)}
    assert ports == wanted
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    assert f'{{name: {PORT}, value: "{DEFAULT_PORT}"}}' in helpers
    assert f"{{name: {HEARTBEAT}, value: /tmp/heartbeat}}" in TEMPLATES["actor"]


def wrapped(tmp_path: Path, script: str) -> subprocess.Popen[bytes]:
    """The Job's script around a program."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return subprocess.Popen(["sh", CHART / "files" / "learner.sh", program, str(tmp_path)])


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_learner_that_ends_by_itself_ends_the_pod_with_its_exit_code(tmp_path: Path, code: int) -> None:
    assert wrapped(tmp_path, f"exit {code}").wait(60) == code


def test_a_learner_that_was_asked_to_end_does_not_complete_the_job(tmp_path: Path) -> None:
    # It takes a while to save and leaves with 0; Kubernetes would take that for a spent budget.
    process = wrapped(tmp_path, 'trap "sleep 0.5; touch $1/saved; exit 0" TERM\ntouch $1/ready\nwhile :; do sleep 0.05; done')
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()


# ------------------------------------------------------------------------------------------------- what needs helm


@pytest.fixture
def helm() -> str:
    """Helm's path."""
    found = os.environ.get("OATMILL_HELM") or shutil.which("helm")
    if found is None:
        pytest.skip("helm is not on PATH and OATMILL_HELM does not name it")
    return found


def rendered(helm: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`helm template`."""
    command = [helm, "template", "mill", str(CHART), "--namespace", "farm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def objects(helm: str, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What is rendered, by kind and name without the Job's suffix."""
    shown = rendered(helm, *arguments)
    assert shown.returncode == 0, shown.stderr
    found = [one for one in yaml.safe_load_all(shown.stdout) if one]
    return {(one["kind"], re.sub(r"-[0-9a-f]{6}$", "", one["metadata"]["name"])): one for one in found}


@pytest.mark.cluster
@pytest.mark.parametrize("values", ["", GPUS_ON_THREE_HOSTS, GPUS_ON_ONE_HOST, WITHOUT_KEYS])
def test_what_is_rendered_is_valid_kubernetes(helm: str, values: str, tmp_path: Path) -> None:
    validation = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    path = tmp_path / "values.yaml"
    path.write_text(values)
    lint = subprocess.run(
        [helm, "lint", "--strict", str(CHART), "--values", str(path)], capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout
    found = objects(helm, "--values", str(path))
    assert {"Job", "StatefulSet", "Deployment", "Service", "ConfigMap", "PersistentVolumeClaim"} <= {kind for kind, _ in found}
    for (kind, _), one in found.items():
        if kind != "ServiceMonitor":  # not Kubernetes' own
            validation.validate(one, KUBERNETES, strict=True)


def pods(found: dict[tuple[str, str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod specs by role."""
    return {
        one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"]["spec"]
        for one in found.values()
        if "template" in one.get("spec", {})
    }


@pytest.mark.cluster
def test_every_container_is_confined_and_sees_the_keys_of_its_role_alone(helm: str) -> None:
    found = pods(objects(helm))
    assert set(found) == {"replay", "learner", "actor"}
    for spec in found.values():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        context = spec["containers"][0]["securityContext"]
        assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "--insecure" not in spec["containers"][0]["args"]
    secrets = {
        role: sorted(set(re.findall(r"oatmill-(?:server|learner|actor)(?=')", str(spec["volumes"]))))
        for role, spec in found.items()
    }
    assert secrets == {"replay": ["oatmill-server"], "learner": ["oatmill-learner"], "actor": ["oatmill-actor"]}


@pytest.mark.cluster
def test_ranks_on_three_hosts_find_rank_0_by_its_name_and_have_a_gpu_each(helm: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(GPUS_ON_THREE_HOSTS)
    found = objects(helm, "--values", str(path))
    job = found["Job", "mill-oatmill-learner"]
    spec = pods(found)["learner"]
    environment = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
    assert (environment["WORLD_SIZE"], environment["OATMILL__TRAINER__LEARNERS"], environment["LOCAL_RANK"]) == ("3", "3", "0")
    # An indexed Job's pods are called JOB-INDEX, below the headless service.
    assert environment["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{spec['subdomain']}"
    assert ("Service", spec["subdomain"]) in found
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    scaler = found["HorizontalPodAutoscaler", "mill-oatmill-actor"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"], scaler["scaleTargetRef"]["name"]) == (2, 9, "mill-oatmill-actor")
    assert "replicas" not in found["Deployment", "mill-oatmill-actor"]["spec"]


def ingress(policy: dict[str, Any]) -> dict[str, set[int]]:
    """Which ports are open to whom, by component or by the whole peer; all ports are `{0}`."""
    found = {}
    for rule in policy["spec"]["ingress"] or []:
        for peer in rule["from"]:  # a rule without it would let everybody in
            labels = peer.get("podSelector", {}).get("matchLabels", {})
            own = labels.get("app.kubernetes.io/instance") == "mill"
            who = labels["app.kubernetes.io/component"] if own else json.dumps(peer)
            found[who] = {port["port"] for port in rule.get("ports", [{"port": 0}])}
    return found


PROMETHEUS = '{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}'


@pytest.mark.cluster
def test_each_port_is_open_to_those_who_need_it_and_to_nobody_else(helm: str, tmp_path: Path) -> None:
    found = objects(helm)
    assert ingress(found["NetworkPolicy", "mill-oatmill-replay"]) == {
        "actor": {7300, 7302, 7303},
        "learner": {7301, 7302, 7303},
        PROMETHEUS: {9464},
    }
    # The ranks of one pod talk over its loopback, and nobody need reach them.
    assert ingress(found["NetworkPolicy", "mill-oatmill-learner"]) == {PROMETHEUS: {9464}}
    assert ingress(found["NetworkPolicy", "mill-oatmill-actor"]) == {}
    path = tmp_path / "values.yaml"
    path.write_text(GPUS_ON_THREE_HOSTS)
    found = objects(helm, "--values", str(path))
    assert ingress(found["NetworkPolicy", "mill-oatmill-learner"]) == {"learner": {0}, '{"namespaceSelector": {}}': {9464}}
    assert [port["name"] for port in found["Service", "mill-oatmill-learner"]["spec"]["ports"]] == ["metrics", "ranks"]
    path.write_text("networkPolicy: {metricsFrom: []}")
    found = objects(helm, "--values", str(path))
    assert ingress(found["NetworkPolicy", "mill-oatmill-learner"]) == {}


@pytest.mark.cluster
def test_rules_are_taken_as_they_are(helm: str, tmp_path: Path) -> None:
    groups = [{"name": "g", "rules": [{"alert": "A", "expr": "up == 0", "annotations": {"summary": "{{ $labels.job }}"}}]}]
    path = tmp_path / "alerts.yml"
    path.write_text(yaml.safe_dump({"groups": groups}))
    on = ["--set", "monitoring.prometheusRule.enabled=true"]
    found = objects(helm, *on, "--set-file", f"monitoring.prometheusRule.files.alerts={path}")
    assert found["PrometheusRule", "mill-oatmill"]["spec"]["groups"] == groups


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("learner.pods=0", "learner.pods: Must be greater than or equal to 1"),
        ("learner.ranks=2", "learner: Additional property ranks is not allowed"),
        ("actor.replicas=many", "actor.replicas: Invalid type. Expected: integer, given: string"),
        ("run.logLevel=loud", "run.logLevel"),
        ("run.config.trainr.gamma=1", "Additional property trainr is not allowed"),
        ("keys.trusted={server}", "keys.trusted.0: Does not match pattern"),
        ("keys.actor=", "keys.actor: Does not match pattern"),
        ("learner.pods=2", "learner.pods=2 needs learner.storage.accessMode=ReadWriteMany, got ReadWriteOnce"),
        ("learner.pods=2,learner.ranksPerPod=2", "learner.pods=2 needs learner.ranksPerPod=1, got 2"),
        ("learner.gpus=3", "learner.gpus is 0 or learner.ranksPerPod=1, a GPU for each rank, got 3"),
        ("actor.autoscaling.enabled=true,actor.autoscaling.minReplicas=99", "minReplicas=99 must be at most maxReplicas=32"),
        ("monitoring.prometheusRule.enabled=true", "monitoring.prometheusRule.enabled needs rules"),
    ],
)
def test_wrong_values_are_refused_and_named(helm: str, value: str, message: str) -> None:
    shown = rendered(helm, "--set", value)
    assert shown.returncode != 0
    assert message in shown.stderr
