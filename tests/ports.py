"""Ports that the tests' servers can bind."""

from __future__ import annotations

import os
import random
import socket

CHOICES = range(10_000, 32_000)
"""Below the range from which the system takes ports for outgoing connections: one of those, even one that has just
closed, would be in the way of a bind."""


def free_ports(count: int = 4) -> int:
    """The first of some ports in a row that nobody listens on."""
    choose = random.Random(os.urandom(8))
    while True:
        first = choose.choice(CHOICES)
        if all(_is_free(port) for port in range(first, first + count)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
