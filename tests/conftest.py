"""Marks the tests that must not run beside others, and ends ZeroMQ contexts in time.

`make test` runs the marked tests last, in one process.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import zmq

TESTS = Path(__file__).parent
SERIAL = (
    # Bounds on time of a second or less, or on the share of the CPU
    "benchmarks/test_harness.py",
    "oatmill/process",
    "protocol/channels",
    # A thousand actors, or all descriptors that a process may have
    "replay/test_floods.py",
    "replay/test_many_actors.py",
    # File systems that are mounted
    "replay/log/test_durable_server.py",
    "replay/log/test_state_files.py",
)
"""Folders and files below tests/."""


TERM_WITHIN_S = 10.0


def term_in_time(context: zmq.Context[Any]) -> None:
    """End a context, or leave it behind if it does not end although all its sockets are closed.

    libzmq 4.3.5 waits forever in zmq_ctx_term, once in some thousand times, if a peer disconnects while a ROUTER is closed.
    """
    ending = threading.Thread(target=wait_for_sockets, args=(context,), daemon=True)
    ending.start()
    ending.join(TERM_WITHIN_S)
    left = [socket for socket in context._sockets if not socket.closed]
    assert not left, f"these sockets were left open: {left}"


wait_for_sockets = zmq.Context.term
zmq.Context.term = term_in_time  # type: ignore[method-assign, assignment]


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the mark."""
    places = [TESTS / name for name in SERIAL]
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker("serial")
