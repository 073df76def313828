"""Describes an environment: `python -m actors.environments.describe`, a separate process (no torch)."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import TypeAdapter

from actors.environments.checks import first_observations
from actors.environments.make import make_environment
from actors.environments.trial import try_steps
from actors.settings import EnvSettings, GymnasiumEnv
from oatmill.children.worker import Answer, serve


def answer_with_description(values: Any, answer: Answer) -> None:
    """Build one copy, reset it, step it a few times, send its description, and close it.

    Args:
        values: the settings of `env` as plain values.
        answer: receives `spaces`, `episode_statistics`, `agents` (of one copy), `channels` (the axis of an
            image's channels; None for other observations), `vector_class` (whether copies are stepped together) and `warnings`.
    """
    settings: EnvSettings = TypeAdapter(EnvSettings).validate_python(values)
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("oatmill.environment").addHandler(handler)
    environment = make_environment(settings, copies=None, seed=0)
    try:
        try_steps(environment, first_observations(environment))
        answer.result(
            {
                "spaces": environment.spaces.to_dict(),
                "episode_statistics": list(environment.episode_statistics),
                "agents": environment.num_rows // environment.num_copies,
                "channels": environment.channels,
                "vector_class": _vector_class(settings),
                "warnings": warned,
            }
        )
    except BaseException as error:  # sent before closing, which may hang
        answer.failed(error)
    environment.close()


def _vector_class(settings: EnvSettings) -> bool:
    if not isinstance(settings, GymnasiumEnv):
        return False
    from actors.environments.adapters.gymnasium import has_vector_class  # noqa: PLC0415  (loads Gymnasium)

    return has_vector_class(settings)


if __name__ == "__main__":
    serve(answer_with_description)
