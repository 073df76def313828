"""One role's process on a node of a Ray cluster: what Ray places, and asks how it is. Imports no Ray itself."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oatmill.files.atomic import FOLDER_MODE, write_file
from oatmill.process.exit_codes import BAD_INPUT
from runner.folder import read_json
from runner.local.child import Child

POLL_S = 0.5
BACK_OFF_S = 2.0
THREADS = 1


@dataclass(frozen=True)
class Looked:
    """What a process tells of itself.

    Attributes:
        name: such as `actor 3`.
        node: the address of its node.
        pid: its process, 0 before it is started.
        exit_code: None while it runs.
        error: the one line with which it gave up.
        log: its output, on its node.
        endpoint: replay's addresses, once it listens.
    """

    name: str
    node: str
    pid: int
    exit_code: int | None
    error: str | None
    log: str
    endpoint: Mapping[str, Any] = field(default_factory=dict)


class RoleProcess:
    """One role on the node where Ray has put this object.

    Args:
        role: replay, learner or actor.
        number: its rank or actor's number.
        config: the run's settings, YAML.
        run_dir: the run's folder.
        keys: the role's key files by their path, to be put into a private folder here.
        log_level: of the role.
        address: the run's control address, for an actor. It starts at once, and ends this object when it breaks down: Ray
            makes another one, here or on another node.
    """

    def __init__(
        self,
        role: str,
        number: int,
        *,
        config: str,
        run_dir: str,
        keys: Mapping[str, bytes] | None,
        log_level: str,
        address: str | None = None,
    ) -> None:
        self._role, self._number, self._log_level = role, number, log_level
        self._run_dir = Path(run_dir)
        self._child: Child | None = None
        self._leaving = False
        self._run_dir.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        (self._run_dir / "logs").mkdir(exist_ok=True)
        self._config = self._run_dir / f"config-{role}-{number}.yaml"
        write_file(self._config, config)
        if keys is not None:
            os.environ["OATMILL_KEYS"] = str(write_keys(keys))
        if address is not None:
            self._start("--address", address, "--actor-id", str(number))
            threading.Thread(target=self._end_with_it, daemon=True).start()

    def start_replay(self, *, insecure: bool) -> None:
        """Listen on four free ports of this node."""
        (self._run_dir / "endpoints" / "replay.json").unlink(missing_ok=True)
        listen = ["--listen", f"tcp://{node_address()}:0", *(["--insecure"] if insecure else [])]
        self._start("--run-dir", str(self._run_dir), *listen)

    def start_rank(self, *, address: str, environment: Mapping[str, str]) -> None:
        """Be one rank of the learner, from the newest checkpoint where there is one."""
        os.environ.update(environment)
        resume = ["--resume"] if (self._run_dir / "checkpoints" / "latest").exists() else []
        self._start("--run-dir", str(self._run_dir), "--address", address, *resume)

    def meeting_point(self) -> tuple[str, int]:
        """This node's address and a port that is free on it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return node_address(), int(probe.getsockname()[1])

    def look(self) -> Looked:
        """How it is."""
        child = self._child
        if child is not None:
            child.bound_log()
        return Looked(
            f"{self._role} {self._number}",
            node_address(),
            child.pid if child else 0,
            child.exit_code if child else None,
            child.error if child and child.exit_code else None,
            str(child.log) if child else "",
            read_json(self._run_dir / "endpoints" / "replay.json") if self._role == "replay" else {},
        )

    def leave(self, grace_s: float) -> None:
        """Ask it to end, and end it after the grace."""
        self._leaving = True
        if self._child is not None:
            self._child.terminate()
            self._child.wait(time.monotonic() + grace_s)
            self._child.kill()

    def _start(self, *arguments: str) -> None:
        log = self._run_dir / "logs" / f"{self._role}-{self._number}.log"
        command = [sys.executable, "-m", "deploy", self._role, "--config", str(self._config), "--log-level", self._log_level]
        self._child = Child(self._role, self._number, [*command, *arguments], log=log, threads=THREADS)

    def _end_with_it(self) -> None:
        assert self._child is not None, "started just before"
        while self._child.exit_code is None:
            time.sleep(POLL_S)
        if self._child.exit_code not in {0, BAD_INPUT} and not self._leaving:
            time.sleep(BACK_OFF_S)
            os._exit(1)


def node_address() -> str:
    """The address under which the cluster's other nodes reach this one."""
    import ray  # noqa: PLC0415  (this class is tested where there is no Ray)

    return str(ray.util.get_node_ip_address())


def write_keys(keys: Mapping[str, bytes]) -> Path:
    """Put key files into a fresh folder that only this user can read."""
    folder = Path(tempfile.mkdtemp(prefix="oatmill-keys-"))
    for name, content in keys.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    return folder
