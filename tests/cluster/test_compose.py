"""The cluster on a real engine: it comes up, trains, is watched, scales, survives what it must, and leaves nothing behind.

    OATMILL_BASE_IMAGE=... make test-cluster

Without a registry, Prometheus and Alertmanager are stand-ins made of Debian's binaries, and Grafana is left out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.grafana.generate import rendered
from deploy.grafana.process_dashboard import NO_CADVISOR, NO_DCGM, NO_GPU, NO_NVML
from tests.cluster.clusters import IMAGE, ROOT, Cluster, answers, built, new_cluster, run
from tests.deploy.prometheus_tools import of_run
from tests.system.real_runs import accounted, oatmill

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

SETTINGS = [
    "trainer.total_timesteps=1000000000",
    "trainer.optimizer.schedule=constant",
    "trainer.batch_size=16",
    "trainer.epochs=1",
    "trainer.checkpoint_every=10",
    "trainer.data_timeout=30",
    "actors.envs_per_actor=4",
    "agent.hidden_sizes=[32]",
    "evaluator.enabled=true",
    "evaluator.episodes=2",
]
FIGURES: dict[str, float] = {}


@pytest.fixture(scope="module")
def image() -> str:
    """The image, built from the sources."""
    began = time.monotonic()
    built()
    FIGURES["image built, s"] = time.monotonic() - began
    return IMAGE


@pytest.fixture(scope="module")
def cluster(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of four actors, started from a wheel in another folder."""
    folder = tmp_path_factory.mktemp("cluster")
    cluster = new_cluster(folder)
    began = time.monotonic()
    try:
        cluster.up("cartpole", "--preset", "conservative", "--actors", "4", *SETTINGS, image=image)
        FIGURES["up to a learner step, s"] = time.monotonic() - began
        if "prometheus" not in cluster.without:
            cluster.until(lambda: cluster.query("oatmill_loss"), 120)
            FIGURES["up to a panel with data, s"] = time.monotonic() - began
        yield cluster
    finally:
        cluster.try_oatmill("down", "--volumes")
        sys.stdout.write("".join(f"\n{what}: {value:.1f}" for what, value in FIGURES.items()))


def test_without_sources_an_image_has_to_be_named(cluster: Cluster) -> None:
    shown = cluster.try_oatmill("up", "cartpole")
    assert (shown.returncode, "oatmill: error: --image is required" in shown.stderr) == (2, True)


def test_four_actors_train(cluster: Cluster) -> None:
    cluster.until(lambda: cluster.status().get("live") == 4, 60)
    before = cluster.step()
    cluster.until(lambda: cluster.step() > before + 3, 120)


def test_nobody_is_root_and_nothing_can_be_written_to(cluster: Cluster) -> None:
    for service in ("replay", "learner", "actor", "evaluator"):
        name = f"{cluster.project}-{service}-1"
        assert run("docker", "exec", name, "id", "--user").stdout.strip() == "10001"
        assert not answers("docker", "exec", name, "touch", "/opt/oatmill/planted")
        shown = run("docker", "exec", name, "cat", "/proc/1/status").stdout
        found = dict(line.split(":\t", 1) for line in shown.splitlines() if ":\t" in line)
        assert (int(found["CapEff"], 16), int(found["CapBnd"], 16), found["NoNewPrivs"]) == (0, 0, "1")
        assert not answers("docker", "exec", name, "which", "gcc")


def test_the_evaluator_plays_checkpoints_and_the_learner_reports_them(cluster: Cluster) -> None:
    def mean() -> float:
        found = re.search(r'^oatmill_eval_return{policy="drawn"} (\S+)', cluster.page("learner"), re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    FIGURES["an evaluation is reported, s"] = cluster.until(lambda: mean() > 0, 120)
    last = run("docker", "exec", f"{cluster.project}-evaluator-1", "tail", "-n", "1", "/runs/cartpole/evaluations.jsonl")
    assert json.loads(last.stdout)["drawn"]["n"] == 2
    assert mean() >= 8, "CartPole gives 1 a step"
    cluster.crash("evaluator")
    cluster.until(lambda: cluster.restarts("evaluator") == 1, 60)


def test_prometheus_has_every_target_every_rule_and_every_loss(cluster: Cluster) -> None:
    if "prometheus" in cluster.without:
        pytest.skip("neither an image of Prometheus nor Debian's binaries are here")
    cluster.until(lambda: {t["health"] for t in cluster.asked("targets")["activeTargets"]} == {"up"}, 60)
    jobs = {target["labels"]["job"] for target in cluster.asked("targets")["activeTargets"]}
    assert {"replay", "learner"} <= jobs
    assert {sample["metric"]["run"] for sample in cluster.query("oatmill_build_info")} == {"cartpole"}
    cluster.until(lambda: {rule["health"] for rule in rules(cluster)} == {"ok"}, 60)
    written = set()
    for path in (ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"):
        written |= set(re.findall(r"^\s*- (?:alert|record): *(\S+)", path.read_text(), re.MULTILINE))
    assert written == {str(rule["name"]) for rule in rules(cluster)}
    assert written
    served = set(re.findall(r'^oatmill_loss\{loss="(\w+)",term="(\w+)"\}', cluster.page("learner"), re.MULTILINE))
    held = {(sample["metric"]["loss"], sample["metric"]["term"]) for sample in cluster.query("oatmill_loss")}
    assert held == served
    assert {"ppo_critic", "cmpo", "ppo_actor", "dynamics", "muesli_model"} <= {loss for loss, _ in held}


def test_the_doctor_knows_the_run_from_prometheus_alone(cluster: Cluster, tmp_path: Path) -> None:
    if "prometheus" in cluster.without:
        pytest.skip("neither an image of Prometheus nor Debian's binaries are here")
    said = oatmill(tmp_path, "doctor", "--prometheus", cluster.prometheus, "--json")
    assert said.returncode == 0, said.stderr
    topics = {finding["topic"]: finding for finding in json.loads(said.stdout)["findings"]}
    assert {"dominance", "entropy", "bottleneck"} <= topics.keys()
    # The guide's coefficient of 0.001, which is the preset's; the learner's settings are known here by their series alone.
    (advice,) = topics["muesli_model"]["tries"]
    setting, _, value = advice.partition("=")
    assert setting == "trainer.losses.muesli_model.policy_pred_coef"
    assert float(value) > 0.001, "worked out from the measured share"


def rules(cluster: Cluster) -> list[dict[str, object]]:
    """Every rule that Prometheus has loaded."""
    return [rule for group in cluster.asked("rules")["groups"] for rule in group["rules"]]


NOT_OF_CARTPOLE = {"Log std of continuous actions", "The environment's own numbers"}
"""Panels without data here: CartPole's actions are discrete, and its info has no numbers."""
NOT_HERE = {NO_GPU, NO_NVML, NO_CADVISOR, NO_DCGM}
"""What panels say instead of data without a GPU and without other exporters."""


def test_every_expression_of_every_dashboard_has_data(cluster: Cluster) -> None:
    if "prometheus" in cluster.without:
        pytest.skip("neither an image of Prometheus nor Debian's binaries are here")
    wanted = {
        (name, panel["title"], of_run(target["expr"], ".*" if name == "runs.json" else "cartpole"))
        for name, text in rendered().items()
        for panel in json.loads(text)["panels"]
        if panel["title"] not in NOT_OF_CARTPOLE
        if panel.get("fieldConfig", {}).get("defaults", {}).get("noValue") not in NOT_HERE
        for target in panel.get("targets", ())
        if 'data="replayed"' not in target["expr"]  # this run has no replay buffer
    }
    empty = set(wanted)

    def looked() -> bool:
        empty.difference_update([one for one in empty if cluster.query(one[2])])
        return not empty

    try:
        cluster.until(looked, 180)  # a rate takes two scrapes, an explained variance a window of reports
    except AssertionError:
        pytest.fail("\n".join(f"{name}: {title}: {expression}" for name, title, expression in sorted(empty)))
    FIGURES["expressions of dashboards run"] = len(wanted)


def test_a_key_that_nobody_trusts_and_a_client_without_one_are_refused(cluster: Cluster) -> None:
    inside = ["docker", "run", "--rm", "--network", f"{cluster.project}_run", "--entrypoint", "sh", IMAGE, "-ec"]
    ask = "timeout 20 oatmill status --address tcp://replay:7302"
    own = ("--volume", f"{cluster.project}_keys-operator:/keys/operator:ro")
    assert answers(*inside[:3], *own, *inside[3:], f"{ask} --keys /keys")
    before = refusals(cluster, "unknown_key")
    # It knows the server's public key, or it could not even say who it is.
    stranger = "oatmill keygen /tmp/keys && cp -f /keys/operator/server.pub /tmp/keys/operator/server.pub"
    assert not answers(*inside[:3], *own, *inside[3:], f"{stranger} && {ask} --keys /tmp/keys")
    cluster.until(lambda: refusals(cluster, "unknown_key") > before, 20)
    assert not answers(*inside, ask)
    # An actor's key is trusted, and may not stop the run.
    actors = f"{cluster.project}_keys-actor:/keys/operator:ro"
    before = refusals(cluster, "role")
    stop = "timeout 20 oatmill stop --address tcp://replay:7302 --keys /keys"
    assert not answers(*inside[:3], "--volume", actors, *inside[3:], stop)
    cluster.until(lambda: refusals(cluster, "role") > before, 20)


def refusals(cluster: Cluster, reason: str) -> float:
    """Messages and connections refused for a reason, as the replay role counts them."""
    found = re.search(rf'^oatmill_rejected_total{{reason="{reason}"}} (\S+)', cluster.page("replay"), re.MULTILINE)
    assert found, reason
    return float(found.group(1))


def test_grafana_answers(cluster: Cluster) -> None:
    if "grafana" in cluster.without:
        pytest.skip("no image of Grafana can be had here")
    assert answers("docker", "exec", f"{cluster.project}-grafana-1", "wget", "-qO-", "http://127.0.0.1:3000/api/health")


def test_actors_come_and_go_while_training_goes_on(cluster: Cluster) -> None:
    for count in (8, 2, 4):
        before, began = cluster.step(), time.monotonic()
        cluster.oatmill("scale", "--actors", str(count))
        FIGURES[f"scaled to {count} live actors, s"] = time.monotonic() - began
        status = cluster.status()
        assert (status["live"], status["desired_actors"]) == (count, count)
        advances(cluster, before)
        balanced(cluster)
    # All that left did so in order, with what they had handed over.
    assert (status["expired"], status["ledger"]["unsent_at_death"]) == (0, 0)


def advances(cluster: Cluster, before: int) -> None:
    """Training gets beyond a learner step."""
    cluster.until(lambda: cluster.step() > before, 120)


def balanced(cluster: Cluster) -> None:
    """G6: nothing is lost in silence, and here nothing is lost at all."""
    ledger = cluster.status()["ledger"]
    assert (accounted(ledger), ledger["lost"]) == (ledger["produced"], 0), ledger


def test_a_killed_actor_comes_back(cluster: Cluster) -> None:
    cluster.until(lambda: cluster.status().get("live") == 4, 60)
    cluster.crash("actor", 1)
    took = cluster.until(lambda: cluster.restarts("actor", 1) and cluster.status().get("live") == 4, 120)
    FIGURES["an actor killed, four live again, s"] = took
    before = cluster.step()
    advances(cluster, before)
    balanced(cluster)


def test_a_killed_learner_goes_on_from_its_checkpoint(cluster: Cluster) -> None:
    cluster.until(lambda: cluster.step() > 12, 120)
    before = cluster.status()["policy_version"]
    cluster.crash("learner")
    took = cluster.until(lambda: cluster.restarts("learner") and cluster.status().get("policy_version", 0) > before + 1, 240)
    FIGURES["the learner killed, training goes on, s"] = took
    steps = [-1]  # a new learner publishes versions before it reports steps, and a busy hub may miss a question

    def told() -> bool:
        steps.append(cluster.step())
        return steps[-1] >= 0

    cluster.until(told, 30)
    assert steps[-1] >= 10
    balanced(cluster)


def test_a_killed_replay_server_is_found_again_by_all(cluster: Cluster) -> None:
    cluster.until(lambda: cluster.step() > 12, 120)
    cluster.crash("replay")
    took = cluster.until(lambda: cluster.step() > 12 and cluster.status().get("live") == 4, 300)
    FIGURES["the replay server killed, training goes on, s"] = took
    before = cluster.step()
    advances(cluster, before)
    balanced(cluster)


def test_an_actor_whose_network_is_gone_for_20_seconds_is_missed_and_comes_back(cluster: Cluster) -> None:
    cluster.until(lambda: cluster.status().get("live") == 4, 120)
    network, name = f"{cluster.project}_run", f"{cluster.project}-actor-2"
    run("docker", "network", "disconnect", network, name)
    cut = time.monotonic()
    cluster.until(lambda: cluster.status().get("live") == 3, 60)
    time.sleep(max(0.0, 20 - (time.monotonic() - cut)))
    run("docker", "network", "connect", network, name)
    FIGURES["network back, four live again, s"] = cluster.until(lambda: cluster.status().get("live") == 4, 180)
    before = cluster.step()
    advances(cluster, before)
    balanced(cluster)


def test_ranks_change_by_a_restart_that_goes_on(cluster: Cluster) -> None:
    before = cluster.step()
    began = time.monotonic()
    cluster.oatmill("scale", "--learners", "2")
    cluster.until(lambda: len(ranks(cluster)) == 2 and cluster.step() > before, 240)
    FIGURES["two ranks instead of one, training goes on, s"] = time.monotonic() - began
    assert cluster.restarts("learner") == 0
    balanced(cluster)


def ranks(cluster: Cluster) -> set[str]:
    """The ranks that the learner's container runs, by their environment."""
    script = "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep ^RANK="
    shown = subprocess.run(
        ["docker", "exec", f"{cluster.project}-learner-1", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    return {*shown.stdout.split()}


def test_down_leaves_nothing(cluster: Cluster) -> None:
    # Every role ends in order: what the engine had to kill ends with 137.
    names = run("docker", "ps", *cluster.ours, "--format", "{{.Names}}").stdout.split()
    began = time.monotonic()
    watched = [subprocess.Popen(["docker", "wait", name], stdout=subprocess.PIPE, text=True) for name in names]
    cluster.oatmill("down", "--volumes")
    FIGURES["down, s"] = time.monotonic() - began
    codes = dict(zip(names, (process.communicate(timeout=60)[0].strip() for process in watched), strict=True))
    roles = {name: code for name, code in codes.items() if re.search("-(actor|learner|replay)-", name)}
    assert {*roles.values()} == {"0"}, json.dumps(codes)
    for what in (["ps", "--all"], ["network", "ls"], ["volume", "ls"]):
        assert run("docker", *what, "--quiet", *cluster.ours).stdout == "", what
    assert not (cluster.folder / "state" / "oatmill" / cluster.project).exists()
    assert cluster.try_oatmill("status").returncode == 2
