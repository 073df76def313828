"""A real cluster for tests: the image is built from the sources, everything else comes from an installed wheel elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy.engines.compose import Engine
from oatmill.errors import UserError
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "oatmill-test/oatmill:under-test"
BASE = "python:3.11-slim-bookworm"
BINARIES = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")
TEMPLATES = Path("share/prometheus/alertmanager")


def run(*command: str, within_s: float = 900, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command to its end, with what it said in the failure's message."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False, **options)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stdout}{result.stderr}"
    return result


def answers(*command: str) -> bool:
    """Whether a command ends well."""
    return not subprocess.run(command, capture_output=True, timeout=120, check=False).returncode


def can_have(image: str) -> bool:
    """Whether an image is here, or a registry gives it."""
    return answers("docker", "image", "inspect", image) or answers("docker", "pull", "--quiet", image)


def stand_ins(folder: Path, base: str) -> dict[str, str] | None:
    """Images of Debian's Prometheus and Alertmanager, by the variables that name them; None without the binaries."""
    found = [shutil.which(name) for name in BINARIES]
    if not all(found):
        return None
    (folder / "templates").mkdir(parents=True)
    for binary in found:
        shutil.copy(str(binary), folder)
    for path in (Path(str(found[0])).parents[1] / TEMPLATES).glob("*.tmpl"):
        shutil.copy(path, folder / "templates")
    images = {}
    for name in ("prometheus", "alertmanager"):
        image = images[f"OATMILL_{name.upper()}_IMAGE"] = f"oatmill-test/{name}:debian"
        file = str(ROOT / "tests" / "cluster" / "monitoring.Dockerfile")
        run(
            "docker",
            "build",
            "--file",
            file,
            "--target",
            name,
            "--build-arg",
            f"BASE_IMAGE={base}",
            "--tag",
            image,
            str(folder),
        )
    return images


def built(image: str = IMAGE, **others: str) -> str:
    """An image, built from the sources; without an engine or a base image the test is skipped.

    Args:
        image: its name.
        others: more build arguments.
    """
    try:
        Engine.find(os.environ)
    except UserError as error:
        pytest.skip(f"needs a container engine: {error}")
    base = os.environ.get("OATMILL_BASE_IMAGE", BASE)
    if not can_have(base):
        pytest.skip(f"the base image {base} can neither be found nor pulled; name another by OATMILL_BASE_IMAGE")
    given = {"BASE_IMAGE": base, **others}
    if "OATMILL_TORCH_INDEX_URL" in os.environ:
        given["TORCH_INDEX_URL"] = os.environ["OATMILL_TORCH_INDEX_URL"]
    arguments = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    run("docker", "build", "--file", "deploy/Dockerfile", *arguments, "--tag", image, ".", cwd=ROOT, within_s=1800)
    return image


def wait_until(done: Callable[[], Any], within_s: float, told: Callable[[], str]) -> float:
    """Wait for something; how long it took. `told` gives the failure's message."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < within_s, told()
        time.sleep(0.2)
    return time.monotonic() - began


def new_cluster(folder: Path, project: str = "oatmill-test") -> Cluster:
    """A cluster that is not up yet, for a wheel that is installed in a folder."""
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(ROOT))
    wheel = next(folder.glob("*.whl"))
    run(*pip, "install", "--no-deps", "--quiet", "--target", str(folder / "wheel"), str(wheel))
    without, environ = [], dict[str, str]()
    if not can_have("prom/prometheus:v3.5.0"):
        environ = stand_ins(folder / "binaries", os.environ.get("OATMILL_BASE_IMAGE", BASE)) or {}
        without = [] if environ else ["prometheus", "alertmanager"]
    if not can_have("grafana/grafana:12.1.0"):
        without.append("grafana")
    return Cluster(folder, environ, without, project)


class Cluster:
    """One cluster, worked as its user does.

    Args:
        folder: where the wheel is installed and state is kept.
        environ: more variables, such as the images of the monitoring.
        without: services that cannot be had.
        project: the cluster's name.
    """

    def __init__(self, folder: Path, environ: dict[str, str], without: Sequence[str], project: str) -> None:
        self.folder, self.without, self.project = folder, without, project
        port = free_ports()
        self.prometheus = f"http://127.0.0.1:{port}"
        plain = {name: value for name, value in os.environ.items() if not name.startswith("OATMILL_") or name.endswith("IMAGE")}
        ports = {f"OATMILL_{name}_PORT": str(port + i) for i, name in enumerate(("PROMETHEUS", "ALERTMANAGER", "GRAFANA"))}
        self.environ = {**plain, **environ, **ports, "PYTHONPATH": str(folder / "wheel"), "PYTHONSAFEPATH": "1"}
        self.environ["XDG_STATE_HOME"] = str(folder / "state")

    def try_oatmill(self, *arguments: str, within_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Run `oatmill cluster ...` from the wheel."""
        return subprocess.run(
            [sys.executable, "-m", "deploy", "cluster", *arguments, "--project", self.project],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )

    def oatmill(self, *arguments: str) -> str:
        """The same for what must succeed; what it printed."""
        result = self.try_oatmill(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def up(self, *arguments: str, image: str) -> None:
        """Start it, without the services that cannot be had."""
        left_out = [word for name in self.without for word in ("--without", name)]
        self.oatmill("up", *arguments, "--image", image, *left_out)

    def status(self) -> dict[str, Any]:
        """The hub's status; empty while it does not answer."""
        shown = json.loads(self.oatmill("status", "--json"))
        return shown["run"] or {}

    def step(self) -> int:
        """The learner's step; -1 while nobody knows."""
        return int(self.status().get("learner", {}).get("learner_step", -1))

    def until(self, done: Callable[[], Any], within_s: float) -> float:
        """Wait for something; how long it took."""
        return wait_until(done, within_s, lambda: self.try_oatmill("status").stdout + self.logs())

    def logs(self) -> str:
        """The last lines of every role."""
        names = run("docker", "ps", "--all", *self.ours, "--format", "{{.Names}}").stdout.split()
        shown = [subprocess.run(["docker", "logs", "--tail", "8", name], capture_output=True, check=False) for name in names]
        pairs = zip(names, shown, strict=True)
        return "".join(f"\n--- {name}\n{(log.stdout + log.stderr).decode(errors='replace')}" for name, log in pairs)

    @property
    def ours(self) -> list[str]:
        """What chooses this cluster's own things."""
        return ["--filter", f"label=com.docker.compose.project={self.project}"]

    def container(self, service: str, number: int = 1) -> str:
        """The name of a container."""
        return f"{self.project}-{service}-{number}"

    def crash(self, service: str, number: int = 1) -> None:
        """Kill a container's first process from outside, which no engine takes for its own wish."""
        name = self.container(service, number)
        pid = int(run("docker", "inspect", "--format", "{{.State.Pid}}", name).stdout)
        os.kill(pid, signal.SIGKILL)

    def restarts(self, service: str, number: int = 1) -> int:
        """How often the engine has started a container again."""
        name = self.container(service, number)
        return int(run("docker", "inspect", "--format", "{{.RestartCount}}", name).stdout)

    def asked(self, path: str) -> Any:
        """What Prometheus's API answers."""
        with urllib.request.urlopen(f"{self.prometheus}/api/v1/{path}", timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression."""
        found: list[dict[str, Any]] = self.asked(f"query?query={urllib.parse.quote(expression)}")["result"]
        return found

    def page(self, service: str) -> str:
        """A role's /metrics, as seen within its container."""
        script = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
        return run("docker", "exec", f"{self.project}-{service}-1", "python", "-c", script).stdout
