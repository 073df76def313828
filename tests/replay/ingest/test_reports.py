"""How often ingest reports to the hub."""

from __future__ import annotations

import pytest

from replay.ingest.__main__ import pause_after_report


@pytest.mark.parametrize(
    ("took_s", "pause_s"),
    [
        (0.001, 0.25),
        (0.01, 1.0),  # a thousand actors: 1 % of the time
        (0.4, 2.0),  # a busy machine: 40 s without a report would hide a dead actor from every alert
    ],
)
def test_a_slow_report_delays_the_next_one_but_not_for_long(took_s: float, pause_s: float) -> None:
    assert pause_after_report(took_s) == pause_s
