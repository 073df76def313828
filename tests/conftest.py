"""Marks the tests that must not run beside others: `make test WORKERS=2` runs them afterwards, in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SERIAL = (
    # Whole runs, which take all cores
    "docs/test_readme.py",
    "system",
    # Bounds on time, or on the share of the CPU
    "benchmarks/test_harness.py",
    "deploy/test_cli_contract.py",
    "learner/ranks",
    "oatmill/children",
    "oatmill/process",
    "protocol/channels",
    "protocol/security",
    "replay/test_floods.py",
    "replay/test_many_actors.py",
    "replay/test_server.py",
    "runner/local",
    # File systems that are mounted, and bounds on time
    "replay/log/test_durable_server.py",
    "replay/log/test_state_files.py",
)
"""Folders and files below tests/."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the mark."""
    places = [TESTS / name for name in SERIAL]
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker("serial")
