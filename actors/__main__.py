"""One actor process: `python -m actors --config FILE --address URL [--actor-id I]`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from actors.settings import ActorSettings, EnvSettings
from agent.settings import AgentSettings
from oatmill.children.leaving import leave, tell_of_exits
from oatmill.children.worker import in_words
from oatmill.errors import OatmillError, RunError, UserCodeError, one_line
from oatmill.process.entry import configure_logging, read_roots, role_parser, run_to_exit, settings_of
from oatmill.process.exit_codes import USER_CODE_FAILED
from oatmill.process.last_words import say_last
from oatmill.process.signals import StopFlag
from oatmill.settings.flat import joining_config
from oatmill.user_code import place_of
from protocol.security.keys import client_keys


class RewardSettings(BaseModel):
    """What an actor needs of the learner's settings."""

    model_config = ConfigDict(extra="ignore")

    normalize_returns: bool = False
    gamma: float = 0.99

    @property
    def discount(self) -> float | None:
        """gamma, if rewards are normalised by the discounted return; None if not."""
        return self.gamma if self.normalize_returns else None


class ActorRoots(BaseModel):
    """The parts of config.yaml that an actor reads."""

    model_config = ConfigDict(extra="ignore")

    env: EnvSettings
    agent: AgentSettings
    actors: ActorSettings
    trainer: RewardSettings = RewardSettings()


def main(arguments: list[str] | None = None) -> int:
    """Run one actor. Exit code 0: finished, 1: failed, 2: bad input, 72: the user's code failed.

    Args:
        arguments: the command line; None for that of the process.
    """
    options = _parser().parse_args(arguments)
    configure_logging(options.log_level)
    return run_to_exit(lambda: _guarded(options))


def _guarded(options: argparse.Namespace) -> int:
    """Run the actor; anything that the environment's code raises becomes an error of one line."""
    tell_of_exits(lambda words: say_last(f"oatmill: error: the environment's code {words}\n"), code=USER_CODE_FAILED)
    try:
        _run(options)
    except OatmillError:
        raise
    except Exception as error:
        kind = UserCodeError if place_of(error) else RunError
        raise kind(f"the actor failed: {one_line(error)}; --log-level debug shows where") from error
    except KeyboardInterrupt:
        raise  # Ctrl-C before the actor handles signals
    except BaseException as leaving:  # SystemExit or asyncio.CancelledError can only come from the environment's code
        raise UserCodeError(f"the environment's code {in_words(leaving)}") from leaving
    return 0


def _run(options: argparse.Namespace) -> None:
    roots = read_roots(options.config, required=("env", "agent", "actors"))
    settings = settings_of(ActorRoots, roots, options.config)
    stop = StopFlag()
    # Importing torch takes a second or two, so errors in the input are found before.
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
            discount=settings.trainer.discount,
            actor_id=options.actor_id,
            heartbeat=Path(heartbeat) if heartbeat else None,
            keys=client_keys(options.keys, "actor"),
        ),
        stop,
    )


def _parser() -> argparse.ArgumentParser:
    parser = role_parser("python -m actors", "One actor process of an oatmill run.")
    parser.add_argument("--address", required=True, help="the run's control address")
    parser.add_argument("--actor-id", type=int, default=None, help="this actor's number; the hub chooses one if left out")
    return parser


if __name__ == "__main__":
    leave(main())
