"""The number of files and sockets that a server may have open. Each connection uses one."""

from __future__ import annotations

import contextlib
import resource

WANTED = 65_536
"""The limit that is requested. More is not requested, even if the system would allow it."""
RESERVE = 128
"""Descriptors that are reserved for the log, the metrics page, the keys and the process itself."""


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open files (RLIMIT_NOFILE) towards its hard limit.

    Child processes inherit it.

    Returns:
        The new limit. It is never lowered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptor_limit()


def descriptor_limit() -> int:
    """Return the number of files and sockets that this process may have open; WANTED if there is no limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return WANTED if soft == resource.RLIM_INFINITY else soft


def too_few(limit: int, sockets: int, clients: int) -> str | None:
    """Return a warning if the limit of open files is too low for all clients; None if it is high enough.

    Args:
        limit: the process's limit of open files.
        sockets: the number of its listening sockets. Every client connects to each of them.
        clients: the number of expected clients.
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
    """Return the number of connections that each listening socket of a process may have.

    Args:
        limit: the process's limit of open files.
        sockets: the number of its listening sockets.
    """
    return max(1, (limit - min(RESERVE, limit // 2)) // sockets)
