"""The Ray actor that starts one role's process on its node. The driver asks it for the process's state."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oatmill.files.atomic import FOLDER_MODE, write_file
from runner.continuing import has_checkpoint
from runner.folder import read_json
from runner.local.child import Child
from runner.local.ports import PORTS_OF_REPLAY, free_ports

THREADS = 1


@dataclass(frozen=True)
class Looked:
    """The state of a process.

    Attributes:
        name: a name such as `actor 3`.
        node: the address of its node.
        pid: its process id; 0 before it is started.
        exit_code: its exit code; None while it runs.
        ending: how it ended, in words; empty while it runs.
        error: the error line that it wrote when it failed.
        log: the path of its output on its node.
        endpoint: the addresses of a replay server; empty until it listens, and for other roles.
        checkpoint: whether the run folder on its node has a checkpoint.
        keyed: whether it uses keys.
    """

    name: str
    node: str
    pid: int
    exit_code: int | None
    ending: str
    error: str | None
    log: str
    endpoint: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: bool = False
    keyed: bool = False


class RoleProcess:
    """Runs one role on the node where Ray has placed this object.

    Args:
        role: replay, learner or actor.
        number: its rank or the actor's number.
        config: the run's settings as YAML.
        run_dir: the run's folder.
        keys: the contents of the role's key files by path. They are written to a private folder on this node.
        log_level: the log level of the role.
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
    ) -> None:
        self._role, self._number, self._log_level = role, number, log_level
        self._run_dir = Path(run_dir)
        self._child: Child | None = None
        self._run_dir.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        (self._run_dir / "logs").mkdir(exist_ok=True)
        self._config = self._run_dir / f"config-{role}-{number}.yaml"
        write_file(self._config, config)
        self._keys = None if keys is None else write_keys(keys)
        if self._keys is not None:
            os.environ["OATMILL_KEYS"] = str(self._keys)

    def start_replay(self, *, listen: str, insecure: bool) -> None:
        """Start the replay server at an address of this node."""
        (self._run_dir / "endpoints" / "replay.json").unlink(missing_ok=True)
        self._start("--run-dir", str(self._run_dir), "--listen", listen, *(["--insecure"] if insecure else []))

    def start_actor(self, *, address: str) -> None:
        """Start the actor."""
        self._start("--address", address, "--actor-id", str(self._number))

    def start_rank(self, *, address: str, meeting_point: tuple[str, int], ranks: int) -> None:
        """Start one rank of the learner, from the newest checkpoint if there is one.

        Args:
            address: the run's control address.
            meeting_point: the host and port of rank 0.
            ranks: the number of ranks.
        """
        host, port = meeting_point
        meet = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "LOCAL_RANK": "0"}
        os.environ.update(meet | {"RANK": str(self._number)})
        resume = ["--resume"] if self._has_checkpoint else []
        self._start("--run-dir", str(self._run_dir), "--address", address, *resume)

    def meeting_point(self) -> tuple[str, int]:
        """This node's address and a free port."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return node_address(), int(probe.getsockname()[1])

    def listening_point(self) -> tuple[str, int]:
        """This node's address and the first of four free ports in a row, for a replay server."""
        return node_address(), free_ports(PORTS_OF_REPLAY)

    def look(self) -> Looked:
        """The state of the process."""
        child = self._child
        if child is not None:
            child.bound_log()
            child.look()
        code = child.exit_code if child else None
        return Looked(
            f"{self._role} {self._number}",
            node_address(),
            child.pid if child else 0,
            code,
            child.ending if child and code is not None else "",
            child.error if child and code else None,
            str(child.log) if child else "",
            read_json(self._run_dir / "endpoints" / "replay.json") if self._role == "replay" else {},
            self._has_checkpoint,
            self._keys is not None,
        )

    def last_lines(self, count: int) -> list[str]:
        """The last lines of its output."""
        return self._child.last_lines(count) if self._child is not None else []

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._child is not None:
            self._child.terminate()

    def leave(self, grace_s: float) -> None:
        """Ask the process to end, kill it if it still runs after `grace_s` seconds, and end this Ray actor."""
        import ray  # noqa: PLC0415  (the tests of this class need no Ray)

        if self._child is not None:
            self._child.terminate()
            self._child.wait(time.monotonic() + grace_s)
            self._child.kill()
        if self._keys is not None:
            shutil.rmtree(self._keys, ignore_errors=True)
        ray.actor.exit_actor()

    @property
    def _has_checkpoint(self) -> bool:
        return has_checkpoint(self._run_dir)

    def _start(self, *arguments: str) -> None:
        log = self._run_dir / "logs" / f"{self._role}-{self._number}.log"
        command = [sys.executable, "-m", "deploy", self._role, "--config", str(self._config), "--log-level", self._log_level]
        self._child = Child(self._role, self._number, [*command, *arguments], log=log, threads=THREADS)


def node_address() -> str:
    """The address that the cluster's other nodes use for this one."""
    import ray  # noqa: PLC0415  (the tests of this module need no Ray)

    return str(ray.util.get_node_ip_address())


def write_keys(keys: Mapping[str, bytes]) -> Path:
    """Write key files into a new folder that only this user can read."""
    folder = Path(tempfile.mkdtemp(prefix="oatmill-keys-"))
    for name, content in keys.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    return folder
