"""The addresses of a run's server: sockets in a private folder on this machine, or four TCP ports."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oatmill.errors import UserError

LOCAL = "ipc"
"""The value of `--listen` for sockets on this machine."""
BASE_PORT = 7300
CONTROL_OFFSET = 2
"""Data, batches, control and weights have consecutive ports."""
LONGEST_SOCKET_PATH = 107 if sys.platform == "linux" else 103
PREFIX = "oatmill-"
ABANDONED_AFTER_S = 3600.0
TCP = re.compile(r"^tcp://(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+)(:(?P<port>\d{1,5}))?$")
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""If the server listens on all addresses, processes on the same machine use the loopback address."""


@dataclass(frozen=True)
class Listening:
    """The addresses of one run's replay server.

    Attributes:
        listen: the address at which the server listens.
        control: the address of its control socket, to which all other roles connect.
    """

    listen: str
    control: str


@contextlib.contextmanager
def listening(asked: str) -> Iterator[Listening]:
    """The addresses for a value of `--listen`. For `ipc`, a folder of sockets is created, and removed at the end.

    Args:
        asked: `ipc`, or `tcp://HOST[:BASE_PORT]`.

    Raises:
        UserError: if `asked` is invalid, or the folder of sockets cannot be created.
    """
    if asked != LOCAL:
        yield tcp(asked)
        return
    with held(socket_folder()) as folder:
        try:
            longest = folder / "batches"
            if len(str(longest).encode()) > LONGEST_SOCKET_PATH:
                raise UserError(
                    f"the temporary folder's path is too long for a socket ({longest}): expected at most {LONGEST_SOCKET_PATH} "
                    "bytes; set TMPDIR to a shorter one, such as /tmp"
                )
            yield Listening(f"ipc://{folder}", f"ipc://{folder}/control")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Path]:
    """Lock a folder, so that systemd-tmpfiles does not clean it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield folder
    finally:
        os.close(descriptor)


def socket_folder() -> Path:
    """Create a folder that only this user can access.

    Raises:
        UserError: if there is no writable temporary folder.
    """
    try:
        parent = Path(tempfile.gettempdir())
        sweep(parent)
        return Path(tempfile.mkdtemp(prefix=PREFIX))
    except OSError as error:
        raise UserError(
            f"a run's sockets need a writable temporary folder: {error.strerror or error}; set TMPDIR to one"
        ) from None


def make_again(listen: str) -> None:
    """Create the folder of the run's sockets again if it was removed."""
    scheme, _, path = listen.partition("://")
    if scheme == LOCAL:
        with contextlib.suppress(OSError):
            Path(path).mkdir(mode=0o700, exist_ok=True)


def sweep(parent: Path) -> None:
    """Remove the empty socket folders of runs whose supervisor was killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S:
                folder.rmdir()


def tcp(asked: str) -> Listening:
    """The addresses of a run on TCP.

    Raises:
        UserError: if the address is malformed.
    """
    match = TCP.match(asked)
    port = int(match["port"] or BASE_PORT) if match else 0
    highest = 65535 - CONTROL_OFFSET - 1
    if match is None or not 1 <= port <= highest:
        raise UserError(f"--listen must be ipc or tcp://HOST[:PORT] with a port from 1 to {highest}, got {asked!r}")
    address = resolve(match["host"])
    reached = EVERYWHERE.get(address, address)
    return Listening(f"tcp://{bracketed(address)}:{port}", f"tcp://{bracketed(reached)}:{port + CONTROL_OFFSET}")


def resolve(host: str) -> str:
    """Resolve a host name once, so that the server and its clients use the same address.

    Raises:
        UserError: if there is no such host.
    """
    if host == "*":
        return "0.0.0.0"
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"--listen tcp://{host}: {error.strerror}; expected an address of this machine") from None
    return str(found[0][4][0])


def bracketed(address: str) -> str:
    """An address in URL form, with brackets for IPv6."""
    return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address  # noqa: PLR2004  (IPv6)
