"""One learner rank: `python -m learner --config FILE --address URL --run-dir DIR`; see `learner.ranks.group` for several."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import yaml

from agent.settings import AgentSettings
from learner.ranks.group import give_up
from learner.settings import TrainerSettings
from oatmill.errors import OatmillError
from oatmill.settings.base import MetricsSettings
from oatmill.settings.flat import joining_config
from protocol.security.keys import client_keys


def main() -> int:
    """Run one rank; 0 done, 1 failed, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m learner", description="One learner rank of an oatmill run.")
    parser.add_argument("--config", type=Path, required=True, help="the run's config.yaml")
    parser.add_argument("--address", required=True, help="the run's control address")
    parser.add_argument("--run-dir", type=Path, required=True, help="where reports and checkpoints go")
    parser.add_argument("--resume", action="store_true", help="start from the newest checkpoint of the run folder")
    parser.add_argument("--keys", type=Path, help="this role's keys, from `oatmill keygen`")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    arguments = parser.parse_args()
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Torch is loaded after the arguments are known good.
    from learner.learner import run  # noqa: PLC0415
    from learner.setup import LearnerConfig  # noqa: PLC0415

    roots = yaml.safe_load(arguments.config.read_text())
    try:
        run(
            LearnerConfig(
                trainer=TrainerSettings.model_validate(roots["trainer"]),
                agent=AgentSettings.model_validate(roots["agent"]),
                metrics=MetricsSettings.model_validate(roots["metrics"]),
                joining=joining_config(roots),
                address=arguments.address,
                run_dir=arguments.run_dir,
                resume=arguments.resume,
                keys=client_keys(arguments.keys, "learner"),
                settings=roots,
            )
        )
    except OatmillError as error:
        give_up(f"oatmill: error: {error}\n")
        return error.exit_code
    return 0


def leave(code: int) -> NoReturn:
    """End this process at once, without Python's clean-up of itself.

    gloo's threads live on behind `destroy_process_group`. One that lets go of the last collective's tensor while Python is
    being taken down cannot have its lock any more, and the whole process is aborted (SIGABRT) with all its work done: once in
    some fifty processes of a busy machine.

    Args:
        code: the exit status.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
