"""`python -m replay`: the server between actors and learner."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from oatmill.process.descriptors import raise_descriptor_limit
from oatmill.process.entry import configure_logging, role_parser, run_to_exit
from oatmill.process.signals import StopFlag
from replay.hub.ingest_process import IngestProcess


def main() -> int:
    """Serve until SIGTERM (0); 1 if one of the two processes died, 2 if the server could not start."""
    options = parser().parse_args()
    configure_logging(options.log_level)
    stop = StopFlag()
    raise_descriptor_limit()
    ingest = IngestProcess(options)
    from replay.hub.process import serve  # noqa: PLC0415 -- both processes import at the same time, so start-up is faster

    return run_to_exit(lambda: serve(options, ingest, stop))


def parser() -> ArgumentParser:
    """Return a parser for the options of `python -m replay`. With --keys, every client needs a key."""
    made = role_parser("python -m replay", "The server between actors and learner: queue, weights, metrics.")
    made.add_argument("--run-dir", type=Path, required=True, help="the run's folder")
    made.add_argument("--listen", required=True, help="ipc:///FOLDER or tcp://HOST[:PORT] (7300; 0 takes free ports)")
    made.add_argument("--port-file", type=Path, help="a file to write the control address to when ready")
    made.add_argument("--insecure", action="store_true", help="listen beyond this machine without keys")
    made.add_argument("--validated", action="store_true", help="the settings of --config were checked by whoever wrote it")
    return made


if __name__ == "__main__":
    sys.exit(main())
