"""docs/reference/metrics.md lists what is exported: no series without a word, no word without a series."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from learner.reporting.metrics import LearnerMetrics
from replay.hub.metrics import HubNumbers, ReplayCollector

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def exported() -> set[str]:
    """The names of all series of both roles, counters with their `_total`."""
    replay = CollectorRegistry()
    replay.register(ReplayCollector(lambda: HubNumbers(report={}, rejected={})))
    names = set()
    for registry in (LearnerMetrics({}, {}).registry, replay):
        for family in registry.collect():
            names.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return names


def test_every_series_has_a_line_and_every_line_a_series() -> None:
    listed = set(re.findall(r"`(oatmill_\w+)(?:\{[\w,]+\})?`", PAGE.read_text()))
    assert listed == exported()
