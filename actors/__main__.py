"""One actor process: `python -m actors --config FILE --address URL [--actor-id I]`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from actors.settings import ActorSettings, EnvSettings
from actors.stopping import StopSignal
from agent.settings import AgentSettings
from oatmill.children.apart import in_words
from oatmill.children.leaving import leave
from oatmill.errors import OatmillError, SettingsError, UserError, one_line
from oatmill.settings.flat import joining_config
from protocol.security.keys import client_keys

log = logging.getLogger("oatmill.actor")


class ActorRoots(BaseModel):
    """The roots of config.yaml that an actor reads; the others are not its business."""

    model_config = ConfigDict(extra="ignore")

    env: EnvSettings
    agent: AgentSettings
    actors: ActorSettings


def main(arguments: list[str] | None = None) -> int:
    """Run one actor; 0 done, 1 failed, 2 bad input.

    Args:
        arguments: the command line; None takes the process's own.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        _run(options)
    except OatmillError as error:
        log.debug("the actor ends because of", exc_info=error)
        sys.stderr.write(f"oatmill: error: {error}\n")
        return error.exit_code
    except Exception as error:
        log.debug("the actor ends because of", exc_info=error)
        sys.stderr.write(f"oatmill: error: the actor failed: {one_line(error)}; --log-level debug shows where\n")
        return 1
    except KeyboardInterrupt:
        raise  # Ctrl-C before `_run` listens to it
    except BaseException as leaving:  # SystemExit, asyncio.CancelledError: the environment's code, nobody else ends this way
        log.debug("the actor ends because of", exc_info=leaving)
        sys.stderr.write(f"oatmill: error: the environment's code {in_words(leaving)}\n")
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    roots = _read_roots(options.config)
    settings = _validated(roots, options.config)
    stop = StopSignal()
    # Torch takes a second or two to load, so it comes after everything that may already be wrong.
    import torch  # noqa: PLC0415

    from actors.actor import ActorConfig, run  # noqa: PLC0415

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    heartbeat = os.environ.get("OATMILL_HEARTBEAT", "")
    run(
        ActorConfig(
            env=settings.env,
            agent=settings.agent,
            actors=settings.actors,
            joining=joining_config(roots),
            address=options.address,
            actor_id=options.actor_id,
            heartbeat=Path(heartbeat) if heartbeat else None,
            keys=client_keys(options.keys, "actor"),
        ),
        stop,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m actors", description="One actor process of an oatmill run.")
    parser.add_argument("--config", type=Path, required=True, help="the run's config.yaml")
    parser.add_argument("--address", required=True, help="the run's control address")
    parser.add_argument("--actor-id", type=int, default=None, help="this actor's number; the hub chooses one if left out")
    parser.add_argument("--keys", type=Path, help="this role's keys, from `oatmill keygen`")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser


def _read_roots(path: Path) -> dict[str, Any]:
    """The roots of config.yaml.

    Raises:
        UserError: if the file cannot be read or is no mapping.
    """
    try:
        roots = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"--config {path}: expected a run's config.yaml, got {one_line(error)}") from error
    if not isinstance(roots, dict):
        raise UserError(f"--config {path}: expected a run's config.yaml, got {type(roots).__name__} at its top")
    return roots


def _validated(roots: dict[str, Any], path: Path) -> ActorRoots:
    """The settings that an actor needs.

    Raises:
        SettingsError: naming the first one that is missing, unknown or out of bounds.
    """
    try:
        return ActorRoots.model_validate(roots)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"--config {path}: {name}: {first['msg']}, got {first['input']!r}") from error


if __name__ == "__main__":
    leave(main())
