"""One learner rank: `python -m learner --config FILE --address URL --run-dir DIR`; see `learner.ranks.group` for several."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel, ConfigDict

from agent.settings import AgentSettings
from learner.ranks.group import give_up
from learner.settings import TrainerSettings
from oatmill.process.entry import configure_logging, read_roots, role_parser, run_to_exit, settings_of
from oatmill.settings.base import MetricsSettings
from oatmill.settings.flat import joining_config
from protocol.security.keys import client_keys


class LearnerRoots(BaseModel):
    """What a learner reads of config.yaml."""

    model_config = ConfigDict(extra="ignore")

    agent: AgentSettings
    trainer: TrainerSettings
    metrics: MetricsSettings


def main() -> int:
    """Run one rank; 0 done, 1 failed, 2 bad input."""
    parser = role_parser("python -m learner", "One learner rank of an oatmill run.")
    parser.add_argument("--address", required=True, help="the run's control address")
    parser.add_argument("--run-dir", type=Path, required=True, help="where reports and checkpoints go")
    parser.add_argument("--resume", action="store_true", help="start from the newest checkpoint of the run folder")
    options = parser.parse_args()
    configure_logging(options.log_level)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return run_to_exit(lambda: _run(options), say=give_up)


def _run(options: argparse.Namespace) -> int:
    roots = read_roots(options.config)
    settings = settings_of(LearnerRoots, roots, options.config)
    keys = client_keys(options.keys, "learner")
    # Torch takes a second or two to load, so it comes after everything that may already be wrong.
    from learner.learner import run  # noqa: PLC0415
    from learner.setup import LearnerConfig  # noqa: PLC0415

    run(
        LearnerConfig(
            trainer=settings.trainer,
            agent=settings.agent,
            metrics=settings.metrics,
            joining=joining_config(roots),
            address=options.address,
            run_dir=options.run_dir,
            resume=options.resume,
            keys=keys,
            settings=roots,
        )
    )
    return 0


def leave(code: int) -> NoReturn:
    """End this process at once, without Python's own clean-up.

    gloo's threads outlive `destroy_process_group`. One of them may release the last collective's tensor while Python shuts
    down. It cannot take Python's lock any more then, and the process is aborted (SIGABRT) with all its work done. On a busy
    machine that happened to one process in fifty.

    Args:
        code: the exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
