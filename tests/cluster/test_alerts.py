"""On a real cluster, each fault raises its alert within a minute, the alert ends after the recovery, and health raises none.

    OATMILL_BASE_IMAGE=... .venv/bin/python -m pytest -m cluster -s tests/cluster/test_alerts.py

A fault lasts until its alert is in the log of the container alert-log. At the end, a table of the measured times is printed.
"""

from __future__ import annotations

import datetime
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.clusters import ROOT, Cluster, built, new_cluster, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

FAULTY = "oatmill-test/oatmill:faulty"
DISK = "size=128m,mode=1777"
SETTINGS = [
    "env={kind: factory, factory: 'tests.cluster.faulty.hanging_env:make_env'}",
    "trainer.extra_losses=[tests.cluster.faulty.failing_loss:choose]",
    "trainer.total_timesteps=1000000000",
    "trainer.optimizer.schedule=constant",
    "trainer.batch_size=8",
    "trainer.epochs=1",
    "trainer.checkpoint_every=10",
    "actors.envs_per_actor=4",
    "agent.hidden_sizes=[32]",
]
FIRES_WITHIN_S = 60.0
WRITTEN_WITHIN_S = 45.0
"""After it fires; Alertmanager waits for more alerts of the same kind, up to its group_interval."""
CLEARS_WITHIN_S = 400.0
RESTARTS_WITHIN_S = 30.0
"""What takes longer to come back may raise an alert."""
QUIET_S = 75.0
"""Longer than any alert about a role takes to fire."""
NOT_ASKED = {"Watchdog", "LossDominates", "MuesliRatioOutOfRange", "EntropyCollapsed", "EntropyHigh", "LossSpike"}
NOT_ASKED |= {"ExplainedVarianceNegative"}
"""One that always fires, and those about what a run learns: these small batches teach little."""
TABLE: list[str] = []


@dataclass(frozen=True)
class Fault:
    """What is done to a cluster.

    Attributes:
        name: what the table says.
        alert: the alert that it raises.
        inflict: makes it.
        heal: ends it.
        beside: other alerts that somebody on call wants to see with it.
    """

    name: str
    alert: str
    inflict: Callable[[Cluster], object]
    heal: Callable[[Cluster], object]
    beside: frozenset[str] = frozenset()


def by_engine(name: str, do: str, undo: str, service: str, alert: str) -> Fault:
    """What a command of the engine does to a container, until another one ends it."""
    return Fault(
        f"{service} {name}",
        alert,
        lambda cluster: run("docker", do, cluster.container(service)),
        lambda cluster: run("docker", undo, cluster.container(service)),
    )


gone = partial(by_engine, "killed, not restarted", "kill", "start")
frozen = partial(by_engine, "frozen", "pause", "unpause")


def cut_off(service: str, alert: str) -> Fault:
    """A container without a network."""
    return Fault(
        f"{service} cut off from the network",
        alert,
        lambda cluster: run("docker", "network", "disconnect", f"{cluster.project}_run", cluster.container(service)),
        lambda cluster: run(
            "docker", "network", "connect", "--alias", service, f"{cluster.project}_run", cluster.container(service)
        ),
    )


def full(volume: str, alert: str) -> Fault:
    """A volume without space."""
    return Fault(
        f"disk of {volume} full",
        alert,
        lambda cluster: run("docker", "exec", holder(cluster), "sh", "-c", f"cat /dev/zero > /{volume}/filler || true"),
        lambda cluster: run("docker", "exec", holder(cluster), "rm", f"/{volume}/filler"),
    )


FLIP = """
from pathlib import Path
segment = sorted(Path("/replay").rglob("*.log"))[0]
content = bytearray(segment.read_bytes())
content[len(content) // 2] ^= 1
segment.write_bytes(content)
"""


def damage_log(cluster: Cluster) -> None:
    """Flip a bit in the middle of the oldest segment of the replay server's log, while the server is away."""
    run("docker", "kill", cluster.container("replay"))
    run("docker", "exec", holder(cluster), "python", "-c", FLIP)
    run("docker", "start", cluster.container("replay"))


def asked(file: str, *places: tuple[str, int]) -> tuple[Callable[[Cluster], object], Callable[[Cluster], object]]:
    """What a file in containers' /tmp does, and its end."""

    def touch(cluster: Cluster) -> None:
        for service, number in places:
            run("docker", "exec", cluster.container(service, number), "touch", f"/tmp/{file}")

    def remove(cluster: Cluster) -> None:
        for service, number in places:
            run("docker", "exec", cluster.container(service, number), "rm", "-f", f"/tmp/{file}")

    return touch, remove


FAULTS = [
    gone("actor", "ActorsMissing"),
    gone("learner", "TargetDown"),
    Fault("an actor's environment hangs", "ActorsMissing", *asked("hang", ("actor", 1))),
    gone("replay", "TargetDown"),
    full("runs", "CheckpointFailed"),
    frozen("actor", "ActorsMissing"),
    frozen("learner", "TargetDown"),
    full("replay", "ReplayLogStalled"),
    frozen("replay", "TargetDown"),
    cut_off("actor", "ActorsMissing"),
    cut_off("learner", "TargetDown"),
    Fault(
        "all actors' environments hang",
        "LearnerStalled",
        *asked("hang", ("actor", 1), ("actor", 2)),
        frozenset({"ActorsMissing"}),
    ),
    cut_off("replay", "TargetDown"),
    Fault("a learner step hangs", "LearnerStalled", *asked("hang", ("learner", 1))),
    Fault("a bit of the replay log flips", "ReplayLogDamaged", damage_log, lambda _cluster: None),
    Fault("a loss is NaN once", "LossNonFinite", *asked("not-finite", ("learner", 1))),
]


def holder(cluster: Cluster) -> str:
    """The name of the container that keeps the small disks mounted, for their contents end with the last mount."""
    return f"{cluster.project}-holder"


def small_disks(cluster: Cluster) -> None:
    """Volumes of replay and learner that can be filled."""
    mounts = []
    for name in ("replay", "runs"):
        volume = f"{cluster.project}_{name}"
        labels = (f"com.docker.compose.project={cluster.project}", f"com.docker.compose.volume={name}")
        options = [word for label in labels for word in ("--label", label)]
        for option in ("type=tmpfs", "device=tmpfs", f"o={DISK}"):
            options += ["--opt", option]
        run("docker", "volume", "create", *options, volume)
        mounts += ["--volume", f"{volume}:/{name}"]
    asleep = ("--user", "0", "--entrypoint", "sleep", FAULTY, "infinity")
    run("docker", "run", "--detach", "--name", holder(cluster), *mounts, *asleep)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two actors that can be asked to fail."""
    image = built()
    run("docker", "build", "--build-arg", f"IMAGE={image}", "--tag", FAULTY, str(ROOT / "tests" / "cluster" / "faulty"))
    cluster = new_cluster(tmp_path_factory.mktemp("alerts"), f"oatmill-test-alerts-{os.getpid()}")
    if "prometheus" in cluster.without:
        pytest.skip("neither an image of Prometheus nor Debian's binaries are here")
    try:
        small_disks(cluster)
        cluster.up("cartpole", "--actors", "2", *SETTINGS, image=FAULTY)
        yield cluster
    finally:
        run("docker", "rm", "--force", holder(cluster))
        cluster.try_oatmill("down", "--volumes")
        sys.stdout.write("\n".join(["", "| Fault | Alert | Fires after | Is written after | Ends after |", *TABLE, ""]))


def firing(cluster: Cluster, within: str = "") -> set[str]:
    """The alerts that Prometheus fires, now or within a time such as `[5m]`."""
    chosen = f'ALERTS{{alertstate="firing"}}{within}'
    found = cluster.query(f"count_over_time({chosen})" if within else chosen)
    return {sample["metric"]["alertname"] for sample in found} - NOT_ASKED


def written(cluster: Cluster, since: float) -> dict[str, float]:
    """When the alert log named each alert for the first time since a time."""
    begin = datetime.datetime.fromtimestamp(since, datetime.UTC).isoformat()
    said = run("docker", "logs", "--timestamps", "--since", begin, cluster.container("alert-log")).stdout
    found: dict[str, float] = {}
    for when, name in re.findall(r"^(\S{26})\S*Z \S+ firing \w+ (\w+)", said, re.MULTILINE):
        if name not in NOT_ASKED:
            found.setdefault(name, datetime.datetime.fromisoformat(f"{when}+00:00").timestamp())
    return found


def trains(cluster: Cluster) -> bool:
    """Whether both actors live, and the learner has ended a step in the last scrapes; asking the hub takes longer."""
    lately = "changes(oatmill_learner_last_update_timestamp_seconds[15s]) > 0"
    return bool(cluster.query("oatmill_actors_live == 2") and cluster.query(lately))


def well(cluster: Cluster) -> None:
    """Wait until the cluster trains and no alert is left."""
    cluster.until(lambda: trains(cluster) and not firing(cluster), 300)


def is_back(cluster: Cluster, service: str) -> bool:
    """Whether a service was restarted, and the cluster trains again."""
    return bool(cluster.restarts(service)) and trains(cluster)


def test_a_cluster_that_starts_and_trains_raises_no_alert(cluster: Cluster) -> None:
    time.sleep(QUIET_S)
    assert firing(cluster, "[1h]") == set()


def test_what_is_restarted_in_time_raises_no_alert(cluster: Cluster) -> None:
    began = time.time()
    slowest = 0.0
    for service in ("actor", "learner", "replay"):
        well(cluster)
        cluster.crash(service)
        took = cluster.until(partial(is_back, cluster, service), 180)
        TABLE.append(f"| {service} killed, and restarted in {took:.0f} s | none | | | |")
        slowest = max(slowest, took)
    time.sleep(QUIET_S)
    if slowest > RESTARTS_WITHIN_S:
        pytest.skip(f"this machine is too busy: a restart took {slowest:.0f} s")
    assert firing(cluster, f"[{int(time.time() - began)}s]") == set()
    assert not written(cluster, began)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_raises_its_alert_within_a_minute(cluster: Cluster, fault: Fault) -> None:
    well(cluster)
    began = time.time()
    fault.inflict(cluster)
    try:
        fired = cluster.until(lambda: fault.alert in firing(cluster), FIRES_WITHIN_S)
        cluster.until(lambda: fault.alert in written(cluster, began), WRITTEN_WITHIN_S)
    finally:
        fault.heal(cluster)
    healed = cluster.until(lambda: fault.alert not in firing(cluster), CLEARS_WITHIN_S)
    lines = written(cluster, began)
    TABLE.append(f"| {fault.name} | {', '.join(lines)} | {fired:.0f} s | {lines[fault.alert] - began:.0f} s | {healed:.0f} s |")
    assert set(lines) - {fault.alert} <= fault.beside


def test_a_run_that_ends_raises_no_alert(tmp_path: Path) -> None:
    cluster = new_cluster(tmp_path, "oatmill-test-end")
    try:
        cluster.up("cartpole", "--actors", "2", "trainer.total_timesteps=40000", image=built())
        cluster.until(lambda: cluster.query("oatmill_run_stopped == 1"), 300)
        time.sleep(QUIET_S)
        assert firing(cluster, "[1h]") == set()
        assert cluster.query("up{job='learner'} == 0"), "nobody would have missed the learner"
    finally:
        cluster.try_oatmill("down", "--volumes")
