"""Runs on a real Ray cluster of three nodes on this machine, of which one and then another is lost."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.cli.entry import run_command
from deploy.engines.ray_process import write_keys
from tests.ports import free_ports
from tests.system.real_runs import ENDLESS, SMALL, environment, oatmill

BUDGET = 10_240
RAY = str(Path(sys.executable).parent / "ray")
NODE = {"object_store_memory": 80_000_000}


def test_keys_are_put_where_only_this_user_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = write_keys({"secret.key": b"s\n", "trusted/actor.pub": b"a\n"})
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        "secret.key": b"s\n",
        "actor.pub": b"a\n",
    }
    assert [path.stat().st_mode & 0o077 for path in (folder, *folder.rglob("*"))] == [0, 0, 0, 0]


def test_without_ray_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "deploy.engines.ray", raising=False)
    assert run_command(["cluster", "status", "--on", "ray"]) == 2
    assert "pip install 'oatmill[ray]'" in capsys.readouterr().err


class RayCluster:
    """A head with the driver and the ranks, a node for replay, and one for actors."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.variables: dict[str, str] = {}
        head = {"num_cpus": 3, "include_dashboard": False, **NODE}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.replay_node = self.cluster.add_node(num_cpus=0, resources={"oatmill_replay": 1}, **NODE)
        self.actors_node = self.cluster.add_node(num_cpus=3, **NODE)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`oatmill cluster WORDS --on ray`."""
        command = [sys.executable, "-m", "deploy", "cluster", *words, "--on", "ray"]
        variables = environment() | {"RAY_ADDRESS": self.cluster.address} | self.variables
        return subprocess.Popen(
            command, cwd=self.folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def do(self, *words: str) -> str:
        """The same to its end; what it prints."""
        process = self.start(*words)
        said, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
        return said

    def status(self) -> dict[str, Any]:
        """`status --json`."""
        content: dict[str, Any] = json.loads(self.do("status", "--json"))
        return content

    def until(
        self, driver: subprocess.Popen[str], done: Callable[[dict[str, Any]], bool], within_s: float = 150
    ) -> dict[str, Any]:
        """Ask until something is so."""
        deadline = time.monotonic() + within_s
        while True:
            assert driver.poll() is None, driver.communicate()
            process = self.start("status", "--json")
            said, _ = process.communicate(timeout=120)
            shown = json.loads(said) if process.returncode == 0 else None
            if shown is not None and shown["run"] is not None and done(shown):
                return dict(shown)
            assert time.monotonic() < deadline, shown
            time.sleep(1)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """Three nodes, taken down at the end."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'oatmill[ray]'")
    # The nodes' workers import this checkout, as on a cluster where oatmill is installed.
    monkeypatch.setattr(os, "environ", os.environ | environment())
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    made = RayCluster(tmp_path)
    yield made
    made.cluster.shutdown()


def steps(shown: dict[str, Any]) -> int:
    """Learner steps so far."""
    return int(shown["run"]["learner"].get("learner_step") or 0)


def pids(shown: dict[str, Any], role: str = "actor") -> set[int]:
    """Of a role's processes on the nodes."""
    return {one["pid"] for one in shown["processes"] if one["name"].startswith(role) and one["pid"]}


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
def test_a_run_goes_on_without_a_node_of_actors_and_ends_without_replays(cluster: RayCluster) -> None:
    refused = cluster.start("up", "cartpole", *SMALL)
    assert refused.wait(60) == 2
    refused.communicate()
    # Two ranks, to the end of the budget.
    two = ["actors.count=2", f"trainer.total_timesteps={BUDGET}", "--learners", "2", "--insecure"]
    assert cluster.do("up", "cartpole", *SMALL, *two, "--run", "short").endswith("short has ended\n")
    ended = json.loads((cluster.folder / "runs" / "short" / "learner.json").read_text())
    assert ended["env_steps"] == BUDGET

    driver = cluster.start("up", "cartpole", *ENDLESS, "--insecure")
    try:
        cluster.until(driver, lambda shown: steps(shown) > 0)
        cluster.do("scale", "--actors", "4")
        before = cluster.until(driver, lambda shown: shown["run"]["live"] == 4 and len(pids(shown)) == 4)

        cluster.cluster.remove_node(cluster.actors_node, allow_graceful=False)
        cluster.cluster.add_node(num_cpus=3, **NODE)
        after = cluster.until(
            driver,
            lambda shown: shown["run"]["live"] == 4 and len(pids(shown)) == 4 and bool(pids(shown) - pids(before)),
        )
        cluster.until(driver, lambda shown: steps(shown) > steps(after))

        cluster.cluster.remove_node(cluster.replay_node, allow_graceful=False)
        _, complaints = driver.communicate(timeout=90)
        assert driver.returncode == 1
        lines = complaints.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("oatmill: error: the node of replay is lost")
    finally:
        driver.kill()
        driver.communicate()


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
def test_a_run_with_keys_is_scaled_and_ended_and_a_lost_rank_and_a_killed_replay_server_restart(cluster: RayCluster) -> None:
    oatmill(cluster.folder, "keygen", "keys")
    cluster.variables = {"OATMILL_KEYS": str(cluster.folder / "keys")}
    driver = cluster.start("up", "cartpole", *ENDLESS, "trainer.checkpoint_every=5")
    try:
        cluster.until(driver, lambda shown: steps(shown) > 5)
        cluster.variables = {}
        stranger = cluster.start("status")
        _, complaint = stranger.communicate(timeout=120)
        assert stranger.returncode == 2
        assert "set OATMILL_KEYS" in complaint
        cluster.variables = {"OATMILL_KEYS": str(cluster.folder / "keys")}
        cluster.do("scale", "--actors", "2")
        before = cluster.until(driver, lambda shown: shown["run"]["live"] == 2)

        (rank,) = pids(before, "learner")
        os.kill(psutil.Process(rank).ppid(), signal.SIGKILL)  # Ray's worker, as if its node were lost
        (replay,) = pids(before, "replay")
        os.kill(replay, signal.SIGKILL)
        after = cluster.until(
            driver,
            lambda shown: bool(pids(shown, "learner") - {rank}) and bool(pids(shown, "replay") - {replay}) and steps(shown) > 0,
        )
        cluster.until(driver, lambda shown: steps(shown) > steps(after) + 5)
        cluster.do("down")
        said, complaints = driver.communicate(timeout=120)
        assert (driver.returncode, complaints) == (0, "")
        assert "the learner was lost with its node or its Ray worker" in said
        assert "from its newest checkpoint" in said
        assert "the replay server was killed by SIGKILL; restarting in 0.5 s" in said
    finally:
        driver.kill()
        driver.communicate()


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Ray cluster of one node, as `ray start --head` makes it; the variables with which it is reached."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'oatmill[ray]'")
    first = 10_000
    while first < 20_000:  # below, Ray gives ports to its workers
        first = free_ports()
    variables = environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    variables |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_ADDRESS": f"http://127.0.0.1:{first + 1}"}
    ports = (f"--port={first}", f"--dashboard-port={first + 1}", f"--ray-client-server-port={first + 2}")
    start = [RAY, "start", "--head", "--block", "--num-cpus=4", "--node-ip-address=127.0.0.1", *ports]
    with (tmp_path / "ray.log").open("w") as log:
        node = subprocess.Popen(
            [*start, f"--object-store-memory={NODE['object_store_memory']}"], env=variables, stdout=log, stderr=log
        )
    try:
        yield variables | {"CLIENT": f"ray://127.0.0.1:{first + 2}"}
    finally:
        family = psutil.Process(node.pid).children(recursive=True)
        node.terminate()
        node.wait(60)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["job", "client"])
def test_a_run_is_a_ray_job_or_driven_from_outside_by_ray_client(head: dict[str, str], tmp_path: Path, way: str) -> None:
    settings = [*SMALL, f"trainer.total_timesteps={BUDGET}", "actors.count=1", "--insecure", "--run", "short"]
    up = [sys.executable, "-m", "deploy", "cluster", "up", "cartpole", "--on", "ray", *settings]
    if way == "job":
        command = [RAY, "job", "submit", "--", "sh", "-c", f"cd {tmp_path} && {shlex.join(up)}"]
    else:
        command, head = up, head | {"RAY_ADDRESS": head["CLIENT"]}
    deadline = time.monotonic() + 120
    while True:  # until the node is up
        done = subprocess.run(command, cwd=tmp_path, env=head, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode == 0:
            break
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(2)
    assert "short has ended" in done.stdout
    assert json.loads((tmp_path / "runs" / "short" / "learner.json").read_text())["env_steps"] == BUDGET
