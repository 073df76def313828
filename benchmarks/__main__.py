"""Runs benchmarks, prints a table, and compares with earlier numbers: `python -m benchmarks [NAME...]`.

python -m benchmarks                                  # everything; about half an hour on two cores
python -m benchmarks learner_step stream --rounds 9   # only these
python -m benchmarks --json now.json                  # keep the numbers
python -m benchmarks --baseline before.json           # compare with earlier numbers
python -m benchmarks --quick                          # only check that everything runs

Without --baseline, the numbers are compared with benchmarks/baselines/two-cores.json if it exists.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from benchmarks.baseline import compared, read_baseline
from benchmarks.harness import Benchmark, Effort, measure
from benchmarks.record import result_of, written
from benchmarks.tables import comparison_table, figures_table, heading

NAMES = (
    "start_up",
    "many_actors",
    "inference",
    "learner_step",
    "space_costs",
    "stream",
    "compression",
    "weights",
    "replay_rates",
    "synthetic_fleet",
    "ddp",
    "end_to_end",
    "evaluator",
    "roofline",
)
EXTRA = ("envpool", "images", "gpu")
"""Benchmarks that need packages or a device which oatmill's tests do without; they run only by name."""
ROUNDS, SECONDS = 5, 4.0
KEPT = Path(__file__).parent / "baselines/two-cores.json"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join((*NAMES, *EXTRA))}; default: all but {', '.join(EXTRA)}"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how many times each arm runs ({ROUNDS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"seconds of one run of an arm, about ({SECONDS:g})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="a file that --json has written, to compare with")
    parser.add_argument("--quick", action="store_true", help="one short round, only to check that everything runs")
    options = parser.parse_args(arguments)
    known = (*NAMES, *EXTRA)
    if unknown := [name for name in options.names if name not in known]:
        parser.exit(2, f"benchmarks: error: there is no benchmark {unknown[0]}; there are {', '.join(known)}\n")
    if options.rounds < 1 or options.seconds <= 0:
        parser.exit(2, "benchmarks: error: --rounds must be at least 1 and --seconds above 0\n")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure and print. The exit code is 2 if the baseline cannot be read."""
    options = parse(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    effort = Effort(1, 0.2, quick=True) if options.quick else Effort(options.rounds, options.seconds)
    before = options.baseline or (KEPT if KEPT.exists() and not options.quick else None)
    try:
        baseline = None if before is None else read_baseline(before)
    except ValueError as error:
        sys.stderr.write(f"benchmarks: error: {error}\n")
        return 2
    found: dict[str, dict[str, Any]] = {}
    for name in options.names or NAMES:
        benchmark = cast("Benchmark", import_module(f"benchmarks.suite.{name}"))
        rounds = measure(benchmark, effort)
        figures = benchmark.figures(rounds)
        found[name] = result_of(rounds, figures)
        print(figures_table(name, figures), flush=True)
        if options.json is not None:  # written after each benchmark, so that an interrupted run keeps its numbers
            options.json.write_text(json.dumps(written(found, effort), indent=1) + "\n")
    if before is not None and baseline is not None:
        print("\n".join([heading(before, baseline["machine"]), *comparison_table(compared(baseline, found))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
