"""`python -m replay`: the server between actors and learner."""

from __future__ import annotations

import sys

from oatmill.process.descriptors import raise_descriptor_limit
from replay.hub.ingest_process import IngestProcess
from replay.process import Ending, configure_logging, parser_of, run_to_exit


def main() -> int:
    """Serve until SIGTERM (0); 1 if one of the two processes died, 2 if it could not begin."""
    options = parser_of("python -m replay").parse_args()
    configure_logging(options.log_level)
    ending = Ending()
    raise_descriptor_limit()
    ingest = IngestProcess(options)
    from replay.hub.process import serve  # noqa: PLC0415 -- both processes import at the same time, which halves the start

    return run_to_exit(lambda: serve(options, ingest, ending))


if __name__ == "__main__":
    sys.exit(main())
