"""How many files and sockets a server may have open. Each connection takes one."""

from __future__ import annotations

import contextlib
import resource

WANTED = 65_536
"""More than this is not asked for, even if the system would allow it."""
RESERVE = 128
"""Kept for the log, the metrics page, the keys and the process itself."""


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open files (RLIMIT_NOFILE) towards its hard limit; child processes inherit it.

    Returns:
        The limit that holds from now on. It is never lowered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptor_limit()


def descriptor_limit() -> int:
    """How many files and sockets this process may have open; WANTED if there is no limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return WANTED if soft == resource.RLIM_INFINITY else soft


def too_few(limit: int, sockets: int, clients: int) -> str | None:
    """A line if not all clients fit into a process's limit of open files; None if they do.

    Args:
        limit: of the process's open files.
        sockets: its listening sockets, to each of which every client connects.
        clients: how many are expected.
    """
    room = connections_of(limit, sockets)
    if clients <= room:
        return None
    needed = sockets * clients + RESERVE
    return (
        f"at most {limit} files may be open, which is enough for {room} actors and not for {clients}; raise the hard limit of "
        f"open files to {needed} or more (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of a container)"
    )


def connections_of(limit: int, sockets: int) -> int:
    """How many connections each of a process's listening sockets may have.

    Args:
        limit: of the process's open files.
        sockets: its listening sockets.
    """
    return max(1, (limit - min(RESERVE, limit // 2)) // sockets)
