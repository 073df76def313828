"""Forks the actors of one machine from a process that has imported torch: `python -m actors.fork_server SOCKET ROOM`.

Its imports take seconds of CPU time and over 100 MB of memory; actors that are forked from it share both, so that many
actors start at once, and one that crashed is back at once. It runs no user code, and it has one thread.
`runner.local.forking` is the other side of the socket. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from oatmill.children.family import FAMILY
from oatmill.children.leaving import leave
from oatmill.children.parent import die_with
from oatmill.process.last_words import VARIABLE as LAST_WORDS

LONGEST_MESSAGE = 65_536
FAMILY_BYTES = FAMILY.encode()
ARGUMENT_AREA, ENVIRONMENT_AREA = slice(45, 47), slice(47, 49)
"""Where the fields 48 to 51 of proc_pid_stat(5), `arg_start` to `env_end`, stand after the name in brackets."""


class Request(NamedTuple):
    """An actor to start.

    Attributes:
        key: the number of this request.
        command: the command line that starts the same actor as a process of its own.
        tag: the tag of its family.
        output: the descriptor for its output.
        words: the descriptor for its last words.
    """

    key: int
    command: Sequence[str]
    tag: str
    output: int
    words: int


def main(arguments: Sequence[str]) -> int:
    """Serve until the other side closes the socket. In an actor, this returns the actor's exit code.

    Args:
        arguments: the descriptor of the socket, and words whose room in the command line actors may use.
    """
    import numpy as np  # noqa: PLC0415

    import actors.actor  # noqa: F401, PLC0415  (torch with it)
    from actors.__main__ import main as run_actor  # noqa: PLC0415

    gc.collect()
    gc.freeze()  # a collection in an actor would copy the shared pages
    server = os.getpid()
    with socket.socket(fileno=int(arguments[0])) as link:
        request = _serve(link)
    if request is None:
        return 0
    die_with(server, signal.SIGTERM)
    _become(request)
    np.random.seed()  # noqa: NPY002  (the user's code may draw from it: actors must not draw the same)
    return run_actor(list(request.command[3:]))


def _serve(link: socket.socket) -> Request | None:
    """Fork an actor for each message, and tell how each ends. Returns the request in an actor, and None at the end."""
    running: dict[int, tuple[int, int]] = {}  # by the descriptor that is readable when the actor has ended
    poll = select.poll()
    poll.register(link, select.POLLIN)
    _check_system()
    link.send(b"{}")
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == link.fileno():
                if (request := _receive(link)) is None:
                    return None
                if not (pid := os.fork()):
                    for other in running:
                        os.close(other)
                    return request
                os.close(request.output)
                os.close(request.words)
                handle = os.pidfd_open(pid)
                running[handle] = request.key, pid
                poll.register(handle, select.POLLIN)
                socket.send_fds(link, [_message(key=request.key, pid=pid)], [handle])
            else:
                poll.unregister(descriptor)
                key, pid = running.pop(descriptor)
                os.close(descriptor)
                link.send(_message(key=key, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def _check_system() -> None:
    """Do once what every actor needs, so that a system without it ends this process before it is ready."""
    os.close(os.pidfd_open(os.getpid()))
    _write(ENVIRONMENT_AREA, os.environb[FAMILY_BYTES], after=FAMILY_BYTES + b"=")


def _receive(link: socket.socket) -> Request | None:
    message, descriptors, _, _ = socket.recv_fds(link, LONGEST_MESSAGE, 2)
    if not message:
        return None
    values = json.loads(message)
    return Request(values["key"], values["command"], values["tag"], *descriptors)


def _message(**values: int) -> bytes:
    return json.dumps(values).encode()


def _become(request: Request) -> None:
    """Take an actor's session, output, tag and command line, as if it had been started with them."""
    os.setsid()
    os.dup2(request.output, sys.stdout.fileno())
    os.dup2(request.output, sys.stderr.fileno())
    os.close(request.output)
    os.environ[LAST_WORDS] = str(request.words)
    os.environ[FAMILY] = request.tag
    _write(ENVIRONMENT_AREA, request.tag.encode(), after=FAMILY_BYTES + b"=")
    start, end = _bounds(ARGUMENT_AREA)
    arguments = os.fsencode("\0".join(request.command))
    _write(ARGUMENT_AREA, arguments.rjust(end - start - 1, b"/"))  # slashes before a path change nothing
    sys.argv = ["actors", *request.command[3:]]


def _write(area: slice, new: bytes, *, after: bytes = b"") -> None:
    """Change what /proc shows of this process.

    Args:
        area: where the process keeps its arguments or its environment.
        new: the bytes to write; what does not fit is left out.
        after: write behind these bytes, which are in the area; empty for its beginning.
    """
    start, end = _bounds(area)
    held = ctypes.string_at(start, end - start)
    offset = held.index(after) + len(after)
    fits = new[: end - start - offset - 1]
    ctypes.memmove(start + offset, fits, len(fits))


def _bounds(area: slice) -> tuple[int, int]:
    start, end = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[area]
    return int(start), int(end)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
