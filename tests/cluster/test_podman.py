"""The cluster on Podman with podman-compose: it comes up, scales up and down, restarts what was killed, and leaves nothing.

OATMILL_PODMAN_IMAGE=localhost/oatmill:0.1.0 make test-cluster     # an image of oatmill that Podman has
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.clusters import ROOT, run

IMAGE = os.environ.get("OATMILL_PODMAN_IMAGE", "")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("podman-compose"), reason="needs podman and podman-compose"),
    pytest.mark.skipif(not IMAGE, reason="needs OATMILL_PODMAN_IMAGE, the name of an image of oatmill that Podman has"),
]
PROJECT = "oatmill-podman-test"
UP = ["up", "cartpole", "--image", IMAGE, "--actors", "2", "trainer.total_timesteps=1000000000"]
WITHOUT = [word for name in ("prometheus", "alertmanager", "grafana") for word in ("--without", name)]


def oatmill(folder: Path, *arguments: str) -> str:
    """`oatmill cluster ...`; what it printed."""
    environ = os.environ | {"OATMILL_ENGINE": "podman-compose", "XDG_STATE_HOME": str(folder)}
    command = [sys.executable, "-m", "deploy", "cluster", *arguments, "--project", PROJECT]
    return run(*command, env=environ, cwd=ROOT).stdout


def containers(service: str = "") -> list[str]:
    """The names of the project's containers of a service."""
    ours = f"label=com.docker.compose.project={PROJECT}"
    names = run("podman", "ps", "--all", "--filter", ours, "--format", "{{.Names}}").stdout.split()
    return sorted(name for name in names if service in name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the cluster's state is kept; the cluster is up."""
    folder = tmp_path_factory.mktemp("podman")
    try:
        assert "2 of 2 actors live" in oatmill(folder, *UP, *WITHOUT)
        yield folder
    finally:
        oatmill(folder, "down", "--volumes")
        assert containers() == []
        volumes = run("podman", "volume", "ls", "--format", "{{.Name}}").stdout
        assert PROJECT not in volumes


def status(folder: Path) -> dict[str, object]:
    """The hub's status; empty while it does not answer."""
    return json.loads(oatmill(folder, "status", "--json"))["run"] or {}


def test_only_what_is_wanted_runs_and_status_finds_it(folder: Path) -> None:
    assert not containers("evaluator")
    assert len(containers("actor")) == 2
    assert status(folder)["live"] == 2


def test_it_scales_up_and_down(folder: Path) -> None:
    for count in (3, 1, 2):
        oatmill(folder, "scale", "--actors", str(count))
        assert (len(containers("actor")), status(folder)["live"]) == (count, count)


@pytest.mark.parametrize("service", ["replay", "learner", "actor"])
def test_what_is_killed_is_restarted(folder: Path, service: str) -> None:
    first = containers(service)[0]
    pid = int(run("podman", "inspect", first, "--format", "{{.State.Pid}}").stdout)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 90
    while (
        int(run("podman", "inspect", first, "--format", "{{.State.Pid}}").stdout) in {0, pid} or status(folder).get("live") != 2
    ):
        assert time.monotonic() < deadline, subprocess.run(["podman", "logs", first], capture_output=True, check=False)
        time.sleep(1)
