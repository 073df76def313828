"""`oatmill train`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.groups import TrainingOptions
from deploy.cli.options import InsecureOption, JsonOption, KeysOption, LogLevel, LogLevelOption, TrustOption

TrainRunDir = Annotated[
    Path | None,
    typer.Option(
        "--run-dir", metavar="DIR", help="The run folder. Default: a new folder in runs; with --resume, the newest run."
    ),
]
ListenOption = Annotated[
    str,
    typer.Option("--listen", metavar="URL", help="ipc, or tcp://HOST[:PORT] so that actors on other machines can join."),
]


def train(
    *,
    training: TrainingOptions,
    run_dir: TrainRunDir = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an ended run from its newest checkpoint; needs no recipe.")
    ] = False,
    trust: TrustOption = False,
    listen: ListenOption = "ipc",
    insecure: InsecureOption = False,
    keys: KeysOption = None,
    as_json: JsonOption = False,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Train a policy on this machine, with a recipe or on an environment (--env).

    The run ends when its budget is spent. Ctrl-C, SIGTERM or `oatmill stop` end it early, with a
    checkpoint.

    Settings come from, in increasing precedence: recipe, --preset, --config, environment variables
    such as OATMILL__TRAINER__TOTAL_TIMESTEPS=10000, KEY=VALUE, other options.
    """
    from deploy.cli.display import observer_for  # noqa: PLC0415
    from deploy.cli.summary import summary_lines  # noqa: PLC0415
    from oatmill.process.nonblocking_output import write_within  # noqa: PLC0415
    from runner.folder import find_run  # noqa: PLC0415

    run = training.resolve(resumed=find_run(run_dir) if resume else None, trust=trust)
    result = run.start(
        run_dir=run_dir,
        resume=resume,
        listen=listen,
        insecure=insecure,
        observer=observer_for(sys.stderr if as_json else sys.stdout),
        log_level=log_level.value,
        keys=keys,
    )
    texts = [(sys.stderr if as_json else sys.stdout, "\n".join(summary_lines(result, run.settings)))]
    texts += [(sys.stdout, json.dumps(result.to_dict(), indent=2, allow_nan=False))] if as_json else []
    unread = [output for output, text in texts if not write_within(output, f"{text}\n")]
    if unread:
        write_within(sys.stderr, f"the output could not be written; see {result.run_dir}/summary.json\n", within_s=0.5)
