"""Starts actors by forking them from a process that has imported torch already; `actors.fork_server` is the other side."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from actors.fork_server import LONGEST_MESSAGE
from oatmill.children.environment import child_environment
from oatmill.children.family import FAMILY, Guardian, new_tag
from oatmill.files.atomic import private_file
from oatmill.process.descriptors import raise_descriptor_limit
from runner.local.child import Start, Started, start_process

PROGRAM = (sys.executable, "-m", "actors")
"""How the command lines begin that the server can take the place of."""
SERVER = (sys.executable, "-m", "actors.fork_server")
FORKED_WITHIN_S = 10.0
CODE_WITHIN_S = 2.0
"""The server tells an actor's exit code this soon after the actor's end, unless somebody has stopped or killed it."""
GONE_WITHIN_S = 5.0
POLL_S = 0.002
SPARE = 4
"""Room for an actor's number of more digits than the first one's."""


class Forking:
    """Keeps a fork server. Where none can run, or it fails, actors are processes of their own.

    Args:
        log: the file for the server's own output.
        guardian: ends what the server leaves behind.
    """

    def __init__(self, log: Path, guardian: Guardian) -> None:
        self._log, self._guardian = log, guardian
        self._server: ForkServer | None = None
        self._possible = hasattr(os, "pidfd_open")
        raise_descriptor_limit()  # an actor takes two of this process and one of the server, which inherits the limit

    def way(self, command: Sequence[str]) -> Start | None:
        """How to start an actor now; None if the server is not ready yet.

        Args:
            command: the actor's command line.
        """
        if not self._possible or tuple(command[: len(PROGRAM)]) != PROGRAM:
            return start_process
        if self._server is None:
            self._server = ForkServer(self._log, room=len(os.fsencode("\0".join(command))) + SPARE)
            self._guardian.watch(self._server.tag, self._server.pid)
        self._server.hear()
        if self._server.gone:
            self._possible = self._server.ready  # one that was ready has been killed, and is replaced
            self.close()
            return None
        return self._start if self._server.ready else None

    def close(self) -> None:
        """End the server, and its actors with it."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _start(self, command: Sequence[str], *, output: IO[bytes], environment: Mapping[str, str], keep: int) -> Started:
        assert self._server is not None, "it was ready"
        try:
            return self._server.start(command, output=output, environment=environment, keep=keep)
        except OSError:  # it was killed or stopped just now
            return start_process(command, output=output, environment=environment, keep=keep)


class ForkServer:
    """A process that forks actors. They end when it ends, as they do with a parent.

    Args:
        log: the file for the server's own output.
        room: the length of an actor's command line, in bytes.

    Attributes:
        tag: the tag of the server's family.
        pid: the server's process id.
        ready: whether it has finished its imports.
        gone: whether it has ended.
    """

    def __init__(self, log: Path, *, room: int) -> None:
        self.tag = new_tag()
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [*SERVER, str(theirs.fileno())]
        with theirs, open(log, "ab", opener=private_file) as output:
            command.append("-" * max(room - len("\0".join(command)) - 1, 1))
            environment = child_environment(os.environ, 1) | {FAMILY: self.tag}
            self._process = start_process(command, output=output, environment=environment, keep=theirs.fileno())
        self._link.settimeout(0)
        self._keys, self._codes = itertools.count(), dict[int, int]()
        self.pid, self.ready, self.gone = self._process.pid, False, False

    def start(self, command: Sequence[str], *, output: IO[bytes], environment: Mapping[str, str], keep: int) -> ForkedActor:
        """Fork an actor. Arguments as those of `start_process`.

        Raises:
            OSError: if the server has ended or does not answer.
        """
        key = next(self._keys)
        request = {"key": key, "command": list(command), "tag": environment[FAMILY]}
        socket.send_fds(self._link, [json.dumps(request).encode()], [output.fileno(), keep])
        deadline = time.monotonic() + FORKED_WITHIN_S
        while time.monotonic() < deadline and not self.gone:
            for number, pid, handle in self._forked():
                if number == key:
                    return ForkedActor(self, key, pid, handle)
                _kill(handle)
            time.sleep(POLL_S)
        raise TimeoutError("the fork server does not answer")

    def code(self, key: int) -> int | None:
        """The exit code of an actor, once; None if the server has not told it."""
        self.hear()
        return self._codes.pop(key, None)

    def hear(self) -> None:
        """Take what the server has told so far."""
        for _, _, handle in self._forked():  # nobody waits for this one any more
            _kill(handle)

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GONE_WITHIN_S)
        self.hear()
        self.gone = True
        self._link.close()

    def _forked(self) -> Iterator[tuple[int, int, int]]:
        """The actors that the server tells of: the number of the request, the process id and its descriptor."""
        while not self.gone:
            try:
                message, handles, _, _ = socket.recv_fds(self._link, LONGEST_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            values = json.loads(message or b"null")
            if values is None:
                self.gone = True
            elif "code" in values:
                self._codes[values["key"]] = values["code"]
            elif "pid" in values:
                yield values["key"], values["pid"], handles[0]
            else:
                self.ready = True


class ForkedActor:
    """A process like `subprocess.Popen`'s, whose parent is the fork server.

    Args:
        server: its parent.
        key: the number of the request.
        pid: its process id.
        handle: a descriptor of the process (pidfd), so that a signal never reaches another process with the same id.
    """

    def __init__(self, server: ForkServer, key: int, pid: int, handle: int) -> None:
        self.pid = pid
        self._server, self._key, self._handle = server, key, handle
        self._ended = select.poll()
        self._ended.register(handle, select.POLLIN)
        self._code: int | None = None
        self._ended_at: float | None = None
        weakref.finalize(self, os.close, handle)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs. That of SIGTERM if the server could not tell it."""
        if self._code is None and self._ended.poll(0):
            self._ended_at = self._ended_at or time.monotonic()
            self._code = self._server.code(self._key)
            if self._code is None and (self._server.gone or time.monotonic() - self._ended_at > CODE_WITHIN_S):
                self._code = -signal.SIGTERM
        return self._code

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("actor", timeout)
            time.sleep(POLL_S)
        return code

    def terminate(self) -> None:
        """Send SIGTERM."""
        _signal(self._handle, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        _signal(self._handle, signal.SIGKILL)


def _kill(handle: int) -> None:
    _signal(handle, signal.SIGKILL)
    os.close(handle)


def _signal(handle: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)
