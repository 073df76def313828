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
from runner.settings import RunSettings
from tests.deploy.doctor.prometheus_server import SHIPPED

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "k8s"
TEMPLATES = {path.stem: path.read_text() for path in (CHART / "templates").glob("*.yaml")}
KUBERNETES = ("1.29", "1.34")

TWO_HOSTS_WITH_TWO_GPUS = """
learner: {pods: 2, ranksPerPod: 2, gpus: 2, storage: {accessMode: ReadWriteMany}}
"""
EVERYTHING_OF_A_POD = """
x-common: &common
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - {weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {busy: "yes"}}}}
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway}]
  priorityClassName: high
  runtimeClassName: gvisor
  labels: {kueue.x-k8s.io/queue-name: farm}
  annotations: {team: mills}
  extraEnv: [{name: NCCL_DEBUG, value: INFO}]
  extraVolumes: [{name: data, emptyDir: {}}]
  extraVolumeMounts: [{name: data, mountPath: /data}]
serviceAccount: {create: true, annotations: {eks.amazonaws.com/role-arn: mills}}
replay: {<<: *common, podDisruptionBudget: {minAvailable: 1}}
learner: {<<: *common, podDisruptionBudget: {minAvailable: 1}}
actor: {<<: *common, podDisruptionBudget: {maxUnavailable: 25%}}
evaluator: {<<: *common, enabled: true}
"""
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
WITH_AN_EVALUATOR = "evaluator: {enabled: true}\nrun: {config: {evaluator: {episodes: 5}}}\n"
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
    # Names of the cluster's own, of Grafana's chart, and of the run's settings.
    free = ("resources.requests.", "resources.limits.", "dashboards.labels.", "run.config.")
    told = {
        name for name in names(yaml.safe_load((CHART / "values.yaml").read_text())) if not any(part in name for part in free)
    }
    roots = {f"run.config.{root}" for root in RunSettings.model_fields}
    empty = {name for name in known(whole) if ".affinity." in name or ".podDisruptionBudget." in name}
    assert set(known(whole)) - told - empty == {"global"} | roots
    assert told <= set(known(whole))


def test_the_chart_is_of_the_packages_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["appVersion"], chart["version"]) == (version, version)


@pytest.mark.parametrize("role", ["replay", "learner", "actor", "evaluator"])
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


def wrapped(tmp_path: Path, script: str, role: str = "learner", **environ: str) -> subprocess.Popen[bytes]:
    """A role's script around a program."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return subprocess.Popen(["sh", CHART / "files" / f"{role}.sh", program, str(tmp_path)], env=os.environ | environ)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_learner_that_ends_by_itself_ends_the_pod_with_its_exit_code(tmp_path: Path, code: int) -> None:
    assert wrapped(tmp_path, f"exit {code}").wait(60) == code


def test_a_learner_that_was_asked_to_end_does_not_complete_the_job(tmp_path: Path) -> None:
    # It takes a while to save and leaves with 0; Kubernetes would take that for a spent budget.
    process = wrapped(tmp_path, 'trap "sleep 0.5; touch $1/saved; exit 0" TERM\ntouch $1/ready\nwhile :; do sleep 0.05; done')
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()


def test_each_pod_starts_its_ranks_and_ends_with_the_exit_code_of_one_that_fails(tmp_path: Path) -> None:
    script = 'echo "$LOCAL_RANK" > "$1/rank-$RANK"\n[ "$RANK" != 2 ] || exit 2'
    assert wrapped(tmp_path, script, POD_INDEX="1", RANKS_PER_POD="2").wait(60) == 2
    assert {path.name: path.read_text() for path in tmp_path.glob("rank-*")} == {"rank-2": "0\n", "rank-3": "1\n"}
    assert wrapped(tmp_path, script, POD_INDEX="0", RANKS_PER_POD="2").wait(60) == 0


def test_all_ranks_of_a_pod_that_is_asked_to_end_are_asked_to(tmp_path: Path) -> None:
    script = 'trap "touch $1/saved-$RANK; exit 0" TERM\ntouch $1/ready-$RANK\nwhile :; do sleep 0.05; done'
    process = wrapped(tmp_path, script, POD_INDEX="0", RANKS_PER_POD="2")
    for rank in (0, 1):
        wait_for(tmp_path / f"ready-{rank}")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert len(list(tmp_path.glob("saved-*"))) == 2


@pytest.mark.parametrize(("role", "code"), [("learner", 128 + signal.SIGTERM), ("actor", 0)])
def test_a_signal_before_the_script_knows_its_child_reaches_the_child(tmp_path: Path, role: str, code: int) -> None:
    for name in ("learner", "actor"):  # the script sleeps where it is slow on a busy machine
        original = (CHART / "files" / f"{name}.sh").read_text()
        slow = original.replace("child=$!", "sleep 1; child=$!", 1).replace("children=$!", "sleep 1; children=$!")
        assert "sleep 1" in slow
        (tmp_path / f"{name}.sh").write_text(slow)
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\ntrap "exit 0" TERM\ntouch "$1/ready"\nwhile :; do sleep 0.05; done\n')
    program.chmod(0o755)
    environ = os.environ | {"OATMILL_HEARTBEAT": str(tmp_path / "beat")}
    with subprocess.Popen(["sh", tmp_path / f"{role}.sh", program, str(tmp_path)], env=environ) as process:
        wait_for(tmp_path / "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == code


def test_an_actor_that_fails_ends_its_container(tmp_path: Path) -> None:
    assert wrapped(tmp_path, "exit 3", "actor", OATMILL_HEARTBEAT=str(tmp_path / "beat")).wait(60) == 3


def test_an_actor_that_is_asked_to_end_ends_its_container(tmp_path: Path) -> None:
    script = 'trap "sleep 0.3; exit 0" TERM\ntouch $1/ready\nwhile :; do sleep 0.05; done'
    process = wrapped(tmp_path, script, "actor", OATMILL_HEARTBEAT=str(tmp_path / "beat"))
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not (tmp_path / "beat").exists()


def test_an_actor_is_not_started_again_after_the_end_of_the_run(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    process = wrapped(tmp_path, 'echo one >> "$1/starts"', "actor", OATMILL_HEARTBEAT=str(beat))
    wait_for(beat)  # so that its probe is content
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert (tmp_path / "starts").read_text() == "one\n"


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


def named(helm: str, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What is rendered, by kind and name."""
    shown = rendered(helm, *arguments)
    assert shown.returncode == 0, shown.stderr
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(shown.stdout) if one}


def objects(helm: str, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What is rendered, by kind and name without the Job's suffix."""
    return {(kind, re.sub(r"-[0-9a-f]{6}$", "", name)): one for (kind, name), one in named(helm, *arguments).items()}


@pytest.mark.cluster
@pytest.mark.parametrize(
    "values",
    ["", GPUS_ON_THREE_HOSTS, GPUS_ON_ONE_HOST, TWO_HOSTS_WITH_TWO_GPUS, EVERYTHING_OF_A_POD, WITHOUT_KEYS, WITH_AN_EVALUATOR],
)
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
            for version in KUBERNETES:
                validation.validate(one, version, strict=True)


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
    assert [environment[name] for name in ("WORLD_SIZE", "OATMILL__TRAINER__LEARNERS", "RANKS_PER_POD")] == ["3", "3", "1"]
    # An indexed Job's pods are called JOB-INDEX, below the headless service.
    assert environment["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{spec['subdomain']}"
    assert ("Service", spec["subdomain"]) in found
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    scaler = found["HorizontalPodAutoscaler", "mill-oatmill-actor"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"], scaler["scaleTargetRef"]["name"]) == (2, 9, "mill-oatmill-actor")
    assert "replicas" not in found["Deployment", "mill-oatmill-actor"]["spec"]


@pytest.mark.cluster
def test_two_hosts_with_two_gpus_each_make_four_ranks(helm: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(TWO_HOSTS_WITH_TWO_GPUS)
    found = objects(helm, "--values", str(path))
    assert found["Job", "mill-oatmill-learner"]["spec"]["completions"] == 2
    container = pods(found)["learner"]["containers"][0]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert [environment[name] for name in ("WORLD_SIZE", "OATMILL__TRAINER__LEARNERS", "RANKS_PER_POD")] == ["4", "4", "2"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2


@pytest.mark.cluster
@pytest.mark.parametrize("values", ["", GPUS_ON_THREE_HOSTS])
def test_prometheus_scrapes_rank_0_alone(helm: str, values: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(f"{values}\n")
    services = {name: one["spec"] for (kind, name), one in objects(helm, "--values", str(path)).items() if kind == "Service"}
    scraped = {name for name, spec in services.items() if "metrics" in {port["name"] for port in spec["ports"]}}
    assert scraped == {"mill-oatmill-replay", "mill-oatmill-learner"}
    assert services["mill-oatmill-learner"]["selector"]["batch.kubernetes.io/job-completion-index"] == "0"


@pytest.mark.cluster
def test_the_run_is_a_label_of_what_is_scraped(helm: str) -> None:
    found = objects(helm, "--set", "monitoring.serviceMonitor.enabled=true")
    (endpoint,) = found["ServiceMonitor", "mill-oatmill"]["spec"]["endpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "run", "replacement": "mill"}]


@pytest.mark.cluster
def test_the_replay_is_durable_unless_settings_say_otherwise(helm: str) -> None:
    def settings(*arguments: str) -> Any:
        return yaml.safe_load(objects(helm, *arguments)["ConfigMap", "mill-oatmill"]["data"]["config.yaml"])

    assert settings()["replay"] == {"acknowledge": "durable"}
    assert settings("--set", "run.config.trainer.gamma=0.9")["replay"] == {"acknowledge": "durable"}
    assert settings("--set", "run.config.replay.acknowledge=memory")["replay"] == {"acknowledge": "memory"}


@pytest.mark.cluster
def test_what_a_cluster_asks_of_pods_reaches_every_role(helm: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(EVERYTHING_OF_A_POD)
    found = objects(helm, "--values", str(path))
    assert found["ServiceAccount", "mill-oatmill"]["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "mills"}
    for role, spec in pods(found).items():
        assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("high", "gvisor")
        assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("mill-oatmill", False)
        assert set(spec["affinity"]) - {"podAffinity"} == {"podAntiAffinity"}
        selected = spec["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]
        assert selected["app.kubernetes.io/component"] == role
        assert {"name": "NCCL_DEBUG", "value": "INFO"} in spec["containers"][0]["env"]
        assert {"name": "data", "mountPath": "/data"} in spec["containers"][0]["volumeMounts"]
        assert {"name": "data", "emptyDir": {}} in spec["volumes"]
        if role != "evaluator":
            budget = found["PodDisruptionBudget", f"mill-oatmill-{role}"]["spec"]
            assert budget["selector"]["matchLabels"] == selected
    for kind in ("Job", "StatefulSet", "Deployment"):
        workload = next(one for (other, _), one in found.items() if other == kind)
        for described in (workload["metadata"], workload["spec"]["template"]["metadata"]):
            assert described["labels"]["kueue.x-k8s.io/queue-name"] == "farm"
            assert described["annotations"]["team"] == "mills"


def beside(spec: dict[str, Any]) -> dict[str, str]:
    """Beside which role a pod has to run (required) or should run (preferred), by the chart's affinity."""
    affinity = spec.get("affinity", {}).get("podAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    wishes = [wish["podAffinityTerm"] for wish in affinity.get("preferredDuringSchedulingIgnoredDuringExecution", [])]
    assert all(term["topologyKey"] == "kubernetes.io/hostname" for term in terms + wishes)
    return {
        kind: term["labelSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for kind, chosen in (("required", terms), ("preferred", wishes))
        for term in chosen
    }


@pytest.mark.cluster
def test_the_evaluator_is_confined_and_sees_the_run_folder_but_no_key(helm: str) -> None:
    assert ("Deployment", "mill-oatmill-evaluator") not in objects(helm)
    found = objects(helm, "--set", "evaluator.enabled=true")
    learner, evaluator = pods(found)["learner"], pods(found)["evaluator"]
    assert evaluator["securityContext"] == learner["securityContext"]
    container = evaluator["containers"][0]
    assert container["securityContext"] == learner["containers"][0]["securityContext"]
    assert container["resources"]["limits"] == {"memory": "2Gi"}
    assert "env" not in container
    (runs,) = [volume for volume in learner["volumes"] if volume["name"] == "runs"]
    assert [volume for volume in evaluator["volumes"] if volume["name"] != "tmp"] == [runs]
    (folder,) = [word for word in learner["containers"][0]["args"] if word.startswith("--run-dir=")]
    assert {folder, "--in-container", "--trust"} < {*container["args"]}
    assert {"name": "OATMILL__EVALUATOR__ENABLED", "value": "true"} in learner["containers"][0]["env"]
    assert ingress(found["NetworkPolicy", "mill-oatmill-evaluator"]) == {}


@pytest.mark.cluster
def test_the_evaluator_runs_on_the_learners_node_unless_every_node_can_mount_the_volume(helm: str) -> None:
    def placed(*arguments: str) -> tuple[dict[str, str], dict[str, str]]:
        found = pods(objects(helm, "--set", "evaluator.enabled=true", *arguments))
        return beside(found["evaluator"]), beside(found["learner"])

    assert placed() == ({"required": "learner"}, {"preferred": "evaluator"})
    assert placed("--set", "learner.storage.accessMode=ReadWriteMany") == ({}, {})
    assert beside(pods(objects(helm))["learner"]) == {}


@pytest.mark.cluster
@pytest.mark.parametrize(
    "value",
    ["insecure=true", "podSecurity.uid=99", "serviceAccount.name=me", "keys.learner=other", "evaluator.enabled=true"],
)
def test_a_job_that_would_change_gets_another_name(helm: str, value: str) -> None:
    def job(*arguments: str) -> str:
        (name,) = (name for kind, name in named(helm, *arguments) if kind == "Job")
        return name

    assert job() != job("--set", value)


@pytest.mark.cluster
def test_dashboards_are_config_maps_that_grafana_finds(helm: str) -> None:
    path = ROOT / "deploy" / "grafana" / "dashboards" / "health.json"
    on = ["--set", "monitoring.dashboards.enabled=true", "--set-file", f"monitoring.dashboards.files.health={path}"]
    found = objects(helm, *on)["ConfigMap", "mill-oatmill-dashboard-health"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["oatmill-health.json"]) == json.loads(path.read_text())
    other = ROOT / "deploy" / "k8s" / "Chart.yaml"
    refused = rendered(helm, *on[:2], "--set-file", f"monitoring.dashboards.files.health={other}")
    assert "monitoring.dashboards.files.health holds no panels" in refused.stderr


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
    assert [port["name"] for port in found["Service", "mill-oatmill-learner-ranks"]["spec"]["ports"]] == ["ranks"]
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
def test_runbooks_are_where_the_docs_are_published(helm: str) -> None:
    page, on = "https://docs.example.org/operations/alerts/", ["--set", "monitoring.prometheusRule.enabled=true"]
    rules = ["--set-file", f"monitoring.prometheusRule.files.alerts={SHIPPED / 'rules' / 'alerts.yml'}"]
    found = objects(helm, *on, *rules, "--set", f"monitoring.prometheusRule.runbooks={page}")
    groups = found["PrometheusRule", "mill-oatmill"]["spec"]["groups"]
    links = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]]
    assert links
    assert all(link.startswith(f"{page}#") for link in links)


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
        ("actor.affinity.podAfinity.a=b", "actor.affinity: Additional property podAfinity is not allowed"),
        ("actor.podDisruptionBudget.minAvailable=some", "actor.podDisruptionBudget.minAvailable: Does not match pattern"),
        (
            "learner.podDisruptionBudget.maxUnavailable=1",
            "podDisruptionBudget: Additional property maxUnavailable is not allowed",
        ),
        ("actor.extraEnv[0].value=1", "actor.extraEnv.0: name is required"),
        ("actor.topologySpreadConstraints[0].maxSkew=1", "actor.topologySpreadConstraints.0: topologyKey is required"),
        ("replay.labels.app\\.kubernetes\\.io/name=a", "replay.labels"),
        ("monitoring.dashboards.enabled=true", "monitoring.dashboards.enabled needs dashboards"),
        ("learner.gpus=3", "learner.gpus is 0 or learner.ranksPerPod=1, a GPU for each rank, got 3"),
        ("actor.autoscaling.enabled=true,actor.autoscaling.minReplicas=99", "minReplicas=99 must be at most maxReplicas=32"),
        ("run.config.evaluator.enabled=true", "run.config.evaluator.enabled=true needs evaluator.enabled=true of the chart"),
        (
            "evaluator.enabled=true,learner.storage.accessMode=ReadWriteOncePod",
            "needs learner.storage.accessMode=ReadWriteOnce or ReadWriteMany, got ReadWriteOncePod",
        ),
        ("monitoring.prometheusRule.enabled=true", "monitoring.prometheusRule.enabled needs rules"),
    ],
)
def test_wrong_values_are_refused_and_named(helm: str, value: str, message: str) -> None:
    shown = rendered(helm, "--set", value)
    assert shown.returncode != 0
    assert message in shown.stderr
