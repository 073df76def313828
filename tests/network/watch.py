"""Prints the hub's status a few times a second, one JSON line each: `python -m tests.network.watch ADDRESS KEYS`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from runner.operator_client import operator_client

EVERY_S = 0.1


def main() -> None:
    """Watch until killed."""
    address, keys = sys.argv[1:]
    with operator_client(address, Path(keys)) as hub:
        while True:
            status = hub.status()
            if status is not None:
                print(json.dumps(status), flush=True)  # noqa: T201 -- what this program is for
            time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
