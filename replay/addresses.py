"""Where the replay role listens: four ZeroMQ sockets in one private folder, or on four ports in a row."""

from __future__ import annotations

import ipaddress
import logging
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from oatmill.errors import UserError
from protocol.channels.sockets import ServerSocket

_log = logging.getLogger("oatmill.replay")

SOCKETS = ("data", "batches", "control", "weights")
DEFAULT_PORT = 7300
MAX_IPC_PATH_BYTES = 107
LOOK_FOR_FILES_EVERY_S = 1.0
"""How soon a socket's file that somebody has removed is made anew."""


def bind_addresses(listen: str, *, insecure: bool) -> dict[str, str]:
    """The address of each socket, to bind.

    Args:
        listen: `ipc:///folder` or `tcp://host[:port]`; port 0 takes four free ports.
        insecure: it may be listened beyond this machine: there are keys, or the user wants none.

    Raises:
        UserError: if that cannot be listened on, or should not.
    """
    scheme, _, rest = listen.partition("://")
    if scheme == "ipc" and rest:
        return _ipc(Path(rest))
    if scheme == "tcp" and rest:
        return _tcp(rest, insecure=insecure)
    raise UserError(f"--listen takes ipc:///FOLDER or tcp://HOST[:PORT], got {listen!r}")


def open_to_others(listen: str, *, keyed: bool) -> str | None:
    """A line that says who else can join and stop a run; None if only its user can.

    Args:
        listen: as in `bind_addresses`.
        keyed: whether everyone is asked for a key.
    """
    if keyed or not listen.startswith("tcp:"):
        return None
    return (
        f"{listen} asks nobody for a key: anyone who reaches it, including every other user of this machine, can join, "
        "change and stop this run; on a shared machine leave out --listen, or use keys (oatmill keygen DIR, then --keys DIR)"
    )


def _ipc(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise UserError(f"--listen ipc://{folder} needs that folder; make it with: mkdir -m 700 {folder}")
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        raise UserError(f"{folder} is open to other users, who could send anything; close it with: chmod 700 {folder}")
    paths = {name: folder / name for name in SOCKETS}
    longest = max(len(str(path).encode()) for path in paths.values())
    if longest > MAX_IPC_PATH_BYTES:
        raise UserError(
            f"a socket's path has at most {MAX_IPC_PATH_BYTES} bytes, {folder} makes {longest}; take a shorter folder"
        )
    for path in paths.values():
        _check_free(path)
    return {name: f"ipc://{path}" for name, path in paths.items()}


def _check_free(path: Path) -> None:
    """Refuse a socket that is served: a second bind would succeed and steal it."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)  # left by a process that was killed
            return
    raise UserError(f"another replay server listens on {path}; give this one a folder of its own")


def _tcp(rest: str, *, insecure: bool) -> dict[str, str]:
    host, port = _split(rest)
    address = _resolve(host)
    if not address.is_loopback and not insecure:
        raise UserError(
            f"tcp://{host} can be reached from other machines and nothing here asks for a key; give it keys (oatmill keygen "
            "DIR, then --keys DIR), listen on 127.0.0.1, or say --insecure if that network is your own"
        )
    shown = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 -- IPv6
    ports = [0] * len(SOCKETS) if port == 0 else range(port, port + len(SOCKETS))
    return {name: f"tcp://{shown}:{number}" for name, number in zip(SOCKETS, ports, strict=True)}


def _split(rest: str) -> tuple[str, int]:
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        return rest.strip("[]"), DEFAULT_PORT
    if not port.isdecimal() or int(port) > 2**16 - len(SOCKETS):
        raise UserError(f"--listen tcp://{rest} needs a port from 0 to {2**16 - len(SOCKETS)}, got {port!r}")
    return host.strip("[]"), int(port)


def _resolve(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A host's address; libzmq itself takes no names to bind to."""
    if host == "*":
        return ipaddress.ip_address("0.0.0.0")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"--listen tcp://{host}: {error}; give an address of this machine") from None
    return ipaddress.ip_address(found[0][4][0])


def restore_files(*sockets: ServerSocket) -> None:
    """Make the files of ipc sockets anew where somebody has removed them, and say so in the log."""
    for server in sockets:
        if (file := server.restore_file()) is not None:
            _log.warning("%s was removed, by a cleaner of temporary files perhaps; it was made anew", file)


def remove_sockets(addresses: Mapping[str, str]) -> None:
    """Remove the files of ipc sockets, also those of a process that could not."""
    for url in addresses.values():
        scheme, _, path = url.partition("://")
        if scheme == "ipc":
            Path(path).unlink(missing_ok=True)
