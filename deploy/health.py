"""Checks whether a role makes progress, for container probes: `oatmill health`, `python -m deploy.health`.

Probes run every few seconds in every container, so this module imports only the standard library and
takes 0.05 s instead of 0.3 s.
"""

from __future__ import annotations

import http.client
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HEARTBEAT = "OATMILL_HEARTBEAT"
HOST = "OATMILL__METRICS__HOST"
PORT = "OATMILL__METRICS__PORT"
LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""The address to ask if a role listens on all addresses."""
DEFAULT_PORT = 9464
MAX_AGE_S = 30.0
"""An actor's watchdog touches the file every second while the last beat is younger than half of
`actors.hang_timeout`."""
ANSWER_WITHIN_S = 4.0
ROLES = ("replay", "learner", "actor")


def problem_of(role: str, environ: Mapping[str, str]) -> str | None:
    """Why this container's role is unhealthy; None if it makes progress.

    Args:
        role: one of ROLES.
        environ: the container's environment variables, which have the role's host and port.
    """
    if role == "actor":
        return problem_of_heartbeat(environ.get(HEARTBEAT, ""))
    if role in ROLES:
        return problem_of_page(environ.get(PORT) or str(DEFAULT_PORT), environ.get(HOST, ""))
    return f"expected one of {', '.join(ROLES)}, got {role!r}"


def problem_of_heartbeat(path: str) -> str | None:
    """Why an actor is unhealthy, by the age of its heartbeat file; None if it is healthy."""
    if not path:
        return f"{HEARTBEAT} must name the actor's heartbeat file"
    try:
        age = time.time() - Path(path).stat().st_mtime
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None if age < MAX_AGE_S else f"{path} was touched {age:.0f} s ago, expected less than {MAX_AGE_S:g}"


def problem_of_page(port: str, host: str = "") -> str | None:
    """Why a role that serves /healthz is unhealthy; None if it is healthy.

    Args:
        port: the role's port.
        host: the address on which the role listens; empty for 127.0.0.1.
    """
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        return f"{PORT} must be a port, got {port!r}"
    host = host.strip("'\"[]")
    host = LOOPBACK.get(host, host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/healthz"
    connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_WITHIN_S)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        said = answer.read(200).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return f"{url}: {error}"
    finally:
        connection.close()
    return None if answer.status == http.client.OK else f"{url}: {answer.status} {said}"


def main(arguments: Sequence[str]) -> int:
    """Write the problem to standard error. Exit code 0: healthy, 1: not healthy."""
    problem = problem_of(arguments[0] if arguments else "", os.environ)
    if problem is not None:
        sys.stderr.write(f"{problem}\n")
    return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
