"""Finds this machine's container engine with Compose, and runs its commands for `oatmill cluster`."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oatmill.errors import RunError, UserError

HERE = Path(__file__).resolve().parents[1]
"""The folder of the compose files: in the sources, or in the installed package."""
ENGINE = "OATMILL_ENGINE"
CANDIDATES = (("docker", "compose"), ("podman", "compose"), ("docker-compose",), ("podman-compose",))
DEFAULT_IMAGE = "oatmill:0.1.0"
SERVICES = ("keys", "replay", "learner", "actor", "evaluator", "prometheus", "alertmanager", "alert-log", "grafana")
SERVICE = re.compile(r"\bcom\.docker\.compose\.service[=:]([\w.-]+)")
"""In a container's labels: Docker prints `a=b,c=d`, Podman `map[a:b c:d]`."""
PROJECT = re.compile(r"^[a-z0-9][a-z0-9_-]{0,40}$")
ANSWER_WITHIN_S = 20.0
STOP_WITHIN_S = 30
"""The `stop_grace_period` of an actor in compose.yaml."""
STDERR = 2
PODMAN_COMPOSE = (1, 1)
"""Debian 12 has podman-compose 1.0.3, which cannot start the cluster."""


@dataclass(frozen=True)
class Container:
    """One container of a cluster."""

    service: str
    name: str
    state: str  # running, restarting, exited, ...
    status: str  # the engine's description, such as "Up 5 seconds (healthy)"


@dataclass(frozen=True)
class Engine:
    """A container engine with Compose.

    Attributes:
        compose: the command of Compose.
        containers: the command that lists containers.
    """

    compose: tuple[str, ...]
    containers: str

    @property
    def is_podman(self) -> bool:
        """Whether this is Podman, whose podman-compose differs from Docker's Compose."""
        return self.containers == "podman"

    @staticmethod
    def find(environ: Mapping[str, str]) -> Engine:
        """The engine that OATMILL_ENGINE names, or the first one that is installed.

        Raises:
            UserError: if there is none, or it does not answer.
        """
        named = shlex.split(environ.get(ENGINE, ""))
        for words in [named] if named else CANDIDATES:
            if shutil.which(words[0]) and (named or is_compose(words)):
                engine = Engine(tuple(words), "podman" if Path(words[0]).name.startswith("podman") else "docker")
                engine.check()
                return engine
        if named:
            raise UserError(f"{ENGINE}={environ[ENGINE]}: there is no such program; expected one such as `docker compose`")
        raise UserError(
            "no container engine with Compose was found; install Docker with Compose 2, or Podman with podman-compose, "
            f"or set {ENGINE} to its command"
        )

    def check(self) -> None:
        """Raise UserError unless the engine answers."""
        asked = run([self.containers, "info"])
        if asked.returncode:
            raise UserError(
                f"{self.containers} is installed but does not answer ({last_line(asked)}); start it, then try again"
            )
        said = run([*self.compose, "--version"]).stdout if self.is_podman else ""
        found = re.search(r"podman-compose\D*(\d+)\.(\d+)", said)
        if found and (int(found[1]), int(found[2])) < PODMAN_COMPOSE:
            raise UserError(
                f"podman-compose {found[1]}.{found[2]} is too old for deploy/compose.yaml; install 1.6 or later: "
                "pip install podman-compose"
            )

    def has_image(self, image: str) -> bool:
        """Whether an image is on this machine."""
        return not run([self.containers, "image", "inspect", image]).returncode

    def pull(self, image: str) -> None:
        """Pull an image.

        Raises:
            UserError: if it cannot be pulled.
        """
        pulled = run([self.containers, "pull", image], timeout_s=3600)
        if pulled.returncode:
            raise UserError(f"--image {image} is not on this machine and cannot be pulled: {last_line(pulled)}")

    def remove(self, containers: Sequence[Container]) -> None:
        """Stop containers in order, and remove them."""
        run([self.containers, "rm", "--force", "--time", str(STOP_WITHIN_S), *(one.name for one in containers)], timeout_s=600)

    def list(self, project: str) -> list[Container]:
        """The containers of a project."""
        columns = ["{{.Labels}}", "{{.Names}}", "{{.State}}", "{{.Status}}"]
        ours = f"label=com.docker.compose.project={project}"
        found = run([self.containers, "ps", "--all", "--filter", ours, "--format", "\t".join(columns)])
        rows = [line.split("\t") for line in found.stdout.splitlines()]
        named = [(SERVICE.search(row[0]), row[1:]) for row in rows if len(row) == len(columns)]
        return sorted(
            (Container(service[1], *row) for service, row in named if service), key=lambda one: (one.service, one.name)
        )


def run(command: Sequence[str], *, timeout_s: float = ANSWER_WITHIN_S) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and capture its output. If it takes longer than `timeout_s`, it has failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {timeout_s:g} s")
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error.strerror}")


def is_compose(words: Sequence[str]) -> bool:
    """Whether a command is Compose; `docker compose` fails if Docker has no Compose plugin."""
    return len(words) == 1 or not run([*words, "version"]).returncode


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    """The last line that a command has written."""
    lines = [line.strip() for line in (result.stderr or result.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {result.returncode}"


@dataclass(frozen=True)
class ComposeCluster:
    """One project of an engine.

    Attributes:
        engine: the container engine.
        project: the project's name, which is the prefix of its containers, networks and volumes.
    """

    engine: Engine
    project: str

    @staticmethod
    def of(project: str, environ: Mapping[str, str]) -> ComposeCluster:
        """The cluster with a name on this machine's engine.

        Raises:
            UserError: if the name is invalid, or there is no engine.
        """
        if not PROJECT.match(project):
            raise UserError(f"--project takes at most 41 characters a-z, 0-9, - and _, got {project!r}")
        return ComposeCluster(Engine.find(environ), project)

    @property
    def folder(self) -> Path:
        """The folder in which `up` keeps its state for the other commands."""
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(base) / "oatmill" / self.project

    @property
    def kept(self) -> dict[str, Any]:
        """The state that `up` has stored; empty before the first `up`."""
        try:
            content = json.loads((self.folder / "cluster.json").read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def keep(self, content: Mapping[str, Any], config: str) -> Path:
        """Store the state, and the settings as a file that the containers mount; returns the path of that file.

        Raises:
            UserError: if the folder cannot be written to.
        """
        path = self.folder / "config.yaml"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Written in place, because running containers have mounted this file.
            path.write_text(config)
            path.chmod(0o644)  # the containers run as another user, and settings are not secret
            (self.folder / "cluster.json").write_text(json.dumps(dict(content), indent=1) + "\n")
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written to: {error.strerror}; set XDG_STATE_HOME") from None
        return path

    def forget(self) -> None:
        """Delete the state."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, *words: str) -> list[str]:
        """A command line of Compose for this project."""
        files = ["compose.yaml", *(["compose.gpu.yaml"] if self.kept.get("gpu") else [])]
        chosen = [word for name in files for word in ("--file", str(HERE / name))]
        return [*self.engine.compose, "--project-name", self.project, *chosen, *words]

    def environment(self) -> dict[str, str]:
        """The environment from which the compose files take their values."""
        return {**os.environ, **self.kept.get("environment", {})}

    def do(self, *words: str) -> None:
        """Run a Compose command; its output goes to standard error.

        Raises:
            RunError: if it fails.
        """
        sys.stderr.flush()
        options: dict[str, Any] = {"env": self.environment(), "stdin": subprocess.DEVNULL, "stdout": STDERR}
        code = subprocess.run(self.command(*words), check=False, **options).returncode
        if code:
            raise RunError(f"`{' '.join(self.engine.compose)} {words[0]}` ended with exit code {code}; the lines above say why")

    def ask(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run an `oatmill` command inside the cluster, with the operator's keys."""
        # Docker would find the profile of a service that is named, podman-compose does not.
        command = self.command("--profile", "tools", "run", "--rm", "-T", "--no-deps", "operator", *words)
        try:
            return subprocess.run(
                command,
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, "", f"no answer within {timeout_s:g} s")

    def status(self) -> dict[str, Any] | None:
        """The hub's status; None if it does not answer."""
        asked = self.ask("status", "--json")
        try:
            content = json.loads(asked.stdout)
        except ValueError:
            return None
        return content if isinstance(content, dict) else None

    def containers(self) -> list[Container]:
        """All containers of the cluster, except those of operator commands."""
        return [one for one in self.engine.list(self.project) if one.service != "operator"]

    def logs(self, service: str, lines: int) -> list[str]:
        """The last lines of a service."""
        asked = run(self.command("logs", "--no-color", "--no-log-prefix", "--tail", str(lines), service))
        return asked.stdout.splitlines()


def can_build() -> bool:
    """Whether the sources for building an image are on this machine."""
    return (HERE.parent / "pyproject.toml").is_file()
