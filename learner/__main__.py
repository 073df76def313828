"""One learner rank: `python -m learner --config FILE --address URL --run-dir DIR`; see `learner.ranks.spawn` for several."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from agent.settings import AgentSettings
from learner.ranks.spawn import STORE
from learner.settings import TrainerSettings
from oatmill.children.leaving import leave_at_once
from oatmill.process.entry import configure_logging, read_roots, role_parser, run_to_exit, settings_of
from oatmill.settings.base import MetricsSettings
from oatmill.settings.flat import joining_config
from protocol.security.keys import client_keys


class LearnerRoots(BaseModel):
    """The parts of config.yaml that the learner reads."""

    model_config = ConfigDict(extra="ignore")

    agent: AgentSettings
    trainer: TrainerSettings
    metrics: MetricsSettings


def main() -> int:
    """Run one rank. Exit code 0: finished, 1: failed, 2: bad input."""
    parser = role_parser("python -m learner", "One learner rank of an oatmill run.")
    parser.add_argument("--address", required=True, help="the run's control address")
    parser.add_argument("--run-dir", type=Path, required=True, help="where reports and checkpoints go")
    parser.add_argument("--resume", action="store_true", help="start from the newest checkpoint of the run folder")
    options = parser.parse_args()
    configure_logging(options.log_level)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return run_to_exit(lambda: _run(options), shown=STORE not in os.environ)  # the group of ranks prints equal lines once


def _run(options: argparse.Namespace) -> int:
    roots = read_roots(options.config)
    settings = settings_of(LearnerRoots, roots, options.config)
    keys = client_keys(options.keys, "learner")
    # Importing torch takes a second or two, so errors in the input are found before.
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


if __name__ == "__main__":
    leave_at_once(main())
