"""The replay server's addresses: four ZeroMQ sockets in a private folder, or on four consecutive ports."""

from __future__ import annotations

import ipaddress
import logging
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from oatmill.errors import UserError
from protocol.channels.sockets import ServerSocket, check_free

_log = logging.getLogger("oatmill.replay")

SOCKETS = ("data", "batches", "control", "weights")
DEFAULT_PORT = 7300
MAX_IPC_PATH_BYTES = 107
LOOK_FOR_FILES_EVERY_S = 1.0
"""How often the server checks whether a socket's file was removed, and creates it again."""


def bind_addresses(listen: str, *, insecure: bool) -> dict[str, str]:
    """Return the address to bind for each socket.

    Args:
        listen: `ipc:///folder` or `tcp://host[:port]`; port 0 takes four free ports.
        insecure: whether other machines may connect: the server has keys, or the user wants none.

    Raises:
        UserError: if the address is invalid, cannot be used, or would be open to others.
    """
    scheme, _, rest = listen.partition("://")
    if scheme == "ipc" and rest:
        return _ipc(Path(rest))
    if scheme == "tcp" and rest:
        return _tcp(rest, insecure=insecure)
    raise UserError(f"--listen takes ipc:///FOLDER or tcp://HOST[:PORT], got {listen!r}")


def check_addresses(listen: str, *, insecure: bool) -> None:
    """Raise the UserError that a server would raise later if it cannot listen; arguments as in `bind_addresses`."""
    for address in bind_addresses(listen, insecure=insecure).values():
        if address.startswith("tcp:"):
            check_free(address)


def open_to_others(listen: str, *, keyed: bool) -> str | None:
    """Return a warning that says who else can join and stop a run; None if only its user can.

    Args:
        listen: as in `bind_addresses`.
        keyed: whether every client needs a key.
    """
    if keyed or not listen.startswith("tcp:"):
        return None
    return (
        f"{listen} requires no key: anyone who can reach it, including every other user of this machine, can join, "
        "change and stop this run; on a shared machine leave out --listen, or use keys (oatmill keygen DIR, then --keys DIR)"
    )


def _ipc(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise UserError(f"--listen ipc://{folder}: the folder does not exist; create it with: mkdir -m 700 {folder}")
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        raise UserError(f"{folder} is open to other users, who could send anything; protect it with: chmod 700 {folder}")
    paths = {name: folder / name for name in SOCKETS}
    longest = max(len(str(path).encode()) for path in paths.values())
    if longest > MAX_IPC_PATH_BYTES:
        raise UserError(
            f"a socket's path has at most {MAX_IPC_PATH_BYTES} bytes, {folder} needs {longest}; choose a shorter folder"
        )
    for path in paths.values():
        _check_free(path)
    return {name: f"ipc://{path}" for name, path in paths.items()}


def _check_free(path: Path) -> None:
    """Reject the path of a socket that another server uses: a second bind would succeed and take it over."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)  # left by a killed process
            return
    raise UserError(f"another replay server listens on {path}; choose another folder for this one")


def _tcp(rest: str, *, insecure: bool) -> dict[str, str]:
    host, port = _split(rest)
    address = _resolve(host)
    if not address.is_loopback and not insecure:
        raise UserError(
            f"tcp://{host} can be reached from other machines and no key is required; use keys (oatmill keygen "
            "DIR, then --keys DIR), listen on 127.0.0.1, or add --insecure if that network is your own"
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
    """Return a host's IP address; libzmq cannot bind to names."""
    if host == "*":
        return ipaddress.ip_address("0.0.0.0")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"--listen tcp://{host}: {error}; use an address of this machine") from None
    return ipaddress.ip_address(found[0][4][0])


def restore_files(*sockets: ServerSocket) -> None:
    """Create the files of ipc sockets again if they were removed, and log it."""
    for server in sockets:
        if (file := server.restore_file()) is not None:
            _log.warning("%s was removed, perhaps by a cleaner of temporary files; it was created again", file)


def remove_sockets(addresses: Mapping[str, str]) -> None:
    """Remove the files of ipc sockets, also those of a process that could not remove its own."""
    for url in addresses.values():
        scheme, _, path = url.partition("://")
        if scheme == "ipc":
            Path(path).unlink(missing_ok=True)
