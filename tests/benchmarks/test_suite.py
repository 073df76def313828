"""Every benchmark runs to its end, so that none rots; what they measure is not looked at here."""

from __future__ import annotations

from importlib import import_module
from math import isfinite

import pytest

from benchmarks.__main__ import EXTRA, NAMES
from benchmarks.harness import Effort, measure


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning")  # EnvPool
@pytest.mark.parametrize("name", [*NAMES, *EXTRA])
def test_it_runs_and_comes_to_figures(name: str) -> None:
    if name == "envpool":
        pytest.importorskip(name)
    benchmark = import_module(f"benchmarks.suite.{name}")
    figures = benchmark.figures(measure(benchmark, Effort(1, 0.2, quick=True)))
    assert figures
    assert all(isfinite(figure.value) for figure in figures.values())
