"""Starts and ends the ingest process.

It imports very little, so that ingest starts while the hub is still importing.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from oatmill.errors import RunError, UserError
from replay.pipe import Pipe

_log = logging.getLogger("oatmill.replay.hub")

ENDS_WITHIN_S = 5.0
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20)}
"""glibc would map new memory for every large frame, with a page fault every 4 KB. With these
values, it keeps up to 256 MB for reuse."""


class IngestProcess:
    """The ingest process, a child of the hub.

    Args:
        options: the command line of this process.

    Attributes:
        pid: its process id.
        pipe: the pipe to it.
    """

    def __init__(self, options: Namespace) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "replay.ingest.__main__", "--pipe", str(theirs.fileno())]
            command += ["--config", str(options.config), "--run-dir", str(options.run_dir), "--log-level", options.log_level]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**MALLOC, **os.environ})
        self.pipe = Pipe(ours)
        self.pid = self._process.pid

    def endpoints(
        self, addresses: dict[str, str], control: str, secret: str, *, keys: Path | None = None, probe: bytes = b""
    ) -> dict[str, str]:
        """Tell it where to bind and which hub to join; returns the addresses for actors and learner.

        Args:
            addresses: the addresses to bind.
            control: the hub's control address.
            secret: its secret, which proves to the hub that this is its ingest process.
            keys: the folder of the server's keys; None for a server without keys.
            probe: the public key of the unknown client in the start-up test.

        Raises:
            UserError: if it cannot bind.
            RunError: if it has died.
        """
        folder = None if keys is None else str(keys)
        said = {"addresses": addresses, "control": control, "secret": secret, "keys": folder, "probe": probe.decode()}
        self.pipe.send(said)
        answer = self.pipe.receive()
        if answer is None:
            raise RunError("the ingest process ended before it was ready; see the lines above")
        if "error" in answer:
            raise UserError(answer["error"])
        endpoints: dict[str, str] = answer["endpoints"]
        return endpoints

    def end(self) -> None:
        """End it, by force if it takes too long."""
        self.pipe.send({"stop": True})
        self.pipe.close()
        try:
            self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            _log.error("ingest did not end within %.0f s and is killed", ENDS_WITHIN_S)
            self._process.kill()
            self._process.wait()
