"""Runs one seed of the simulator again: `python -m tests.replay.simulation.simulate SEED`."""

from __future__ import annotations

import sys

from tests.replay.simulation.promises import simulate


def main() -> None:
    """Run it and print the outcome; a broken promise ends with its traceback."""
    run = simulate(int(sys.argv[1]))
    sys.stdout.write(f"seed {run.seed}: every promise kept over {run.batches} batches; {run.core.ledger()}\n")


if __name__ == "__main__":
    main()
