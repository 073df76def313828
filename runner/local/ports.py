"""Free TCP ports on this machine, for servers of runs on several machines."""

from __future__ import annotations

import random
import socket

from oatmill.errors import RunError
from replay.addresses import SOCKETS

PORTS_OF_REPLAY = len(SOCKETS)
LOWEST_PORT, HIGHEST_PORT = 20_000, 32_000
"""These ports are below those that Linux uses for outgoing connections, so that they are still free when a
replay server is restarted."""
TRIES = 100


def free_ports(count: int) -> int:
    """The first of several free TCP ports in a row.

    Raises:
        RunError: if none were found.
    """
    for _ in range(TRIES):
        first = random.randrange(LOWEST_PORT, HIGHEST_PORT)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise RunError(f"this node has no {count} free ports in a row between {LOWEST_PORT} and {HIGHEST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
