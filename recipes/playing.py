"""Stepping an environment with a trained policy, one episode after another."""

from __future__ import annotations

from pathlib import Path

from actors.environment import Environment, Episode, Step, first_observations
from agent.loading import LoadedAgent
from protocol.errors import OatmillError, RunError, UserError, one_line
from protocol.joining import flatten_settings
from protocol.trajectory import Array

MAX_STEPS = 100_000
"""An episode that has not ended after so many steps never will."""


def check_fit(agent: LoadedAgent, environment: Environment, checkpoint: Path) -> None:
    """Raise UserError unless the network sees and does what the environment shows and takes."""
    shown, trained = (flatten_settings(spaces.to_dict()) for spaces in (environment.spaces, agent.spec.spaces))
    for name in shown:
        if shown[name] != trained.get(name):
            raise UserError(
                f"{checkpoint} was trained in another environment than {environment.name}: expected {name} {shown[name]}, got "
                f"{trained.get(name)}; name a checkpoint of this run"
            )


def play(agent: LoadedAgent, environment: Environment, *, episodes: int, deterministic: bool) -> list[Episode]:
    """Play until so many episodes have ended."""
    played: list[Episode] = []
    observations = first_observations(environment)
    since_end = 0
    while len(played) < episodes:
        step = stepped(environment, agent.act(observations, deterministic=deterministic))
        observations = step.observations
        ended = step.terminated | step.truncated
        if ended.any():
            agent.reset(ended)
        played += step.episodes
        since_end = 0 if step.episodes else since_end + 1
        if since_end > MAX_STEPS:
            raise RunError(
                f"{environment.name}: no episode has ended within {MAX_STEPS} steps; give the environment a time limit"
            )
    return played[:episodes]


def stepped(environment: Environment, actions: Array) -> Step:
    """One step; what the environment raises is told in one line."""
    try:
        return environment.step(actions)
    except OatmillError:
        raise
    except Exception as error:
        raise RunError(f"{environment.name} raised in step: {one_line(error)}") from error
