"""A thousand actors on one replay server: acknowledged in time, in bounded memory, and nothing is lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks.fleet import BATCH, SPACES, STEPS, measure

ENOUGH_CORES = 4
ACTORS, SECONDS = 1000, 60.0
RATE = 5000.0 if (os.cpu_count() or 1) >= ENOUGH_CORES else 3500.0
"""Trajectories a second. On two cores the senders take one of them: 5,000 a second arrive, but wait up to 0.3 s for it."""
ACK_P99_MS = 50.0
QUEUE_BATCHES = 16
TRAJECTORY_BYTES = (STEPS + 1) * SPACES.observation.shape[0] * 4
# What may wait (16 batches) and be on its way to the learner or in its hands (a few more), besides what a Python process with
# a thousand connections takes.
MEMORY_MB = (QUEUE_BATCHES + 8) * BATCH * TRAJECTORY_BYTES / 1e6 + 250


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_actors_of_46_kb_are_acknowledged_in_time_and_in_bounded_memory(tmp_path: Path) -> None:
    found = measure(tmp_path, actors=ACTORS, rate=RATE, seconds=SECONDS, processes=2)
    sys.stdout.write(f"{found}, load {os.getloadavg()[0]:.1f}\n")  # shown by pytest -s
    assert (found["lost"], found["taken_for_dead"]) == (0, 0)
    assert found["acknowledged_per_second"] >= 0.98 * RATE, found
    assert found["ack_p99_ms"] < ACK_P99_MS, found
    assert found["ingest_peak_rss_mb"] < MEMORY_MB, found
