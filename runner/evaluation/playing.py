"""Plays episodes with a trained policy."""

from __future__ import annotations

from pathlib import Path

from actors.environments.base import Environment, Episode
from actors.environments.checks import checked_step, first_observations
from agent.loading import LoadedAgent
from oatmill.errors import RunError, UserError
from oatmill.settings.flat import flatten_settings
from protocol.data.observations import Observations

MAX_STEPS = 100_000
"""An episode with more steps than this is assumed never to end."""


def check_fit(agent: LoadedAgent, environment: Environment, checkpoint: Path) -> None:
    """Raise a UserError unless the network and the environment have the same spaces."""
    shown, trained = (flatten_settings(spaces.to_dict()) for spaces in (environment.spaces, agent.spec.spaces))
    for name in shown:
        if shown[name] != trained.get(name):
            raise UserError(
                f"{checkpoint} was trained in another environment than {environment.name}: expected {name} {shown[name]}, got "
                f"{trained.get(name)}; use a checkpoint of this environment"
            )


def begin(agent: LoadedAgent, environment: Environment, checkpoint: Path) -> Observations:
    """Reset the environment: its first observations.

    Raises:
        UserError: if it does not keep what its spaces promise, or the network was trained in another one.
    """
    observations = first_observations(environment)
    check_fit(agent, environment, checkpoint)  # its spaces are known for certain after a reset
    return observations


def play(
    agent: LoadedAgent, environment: Environment, observations: Observations, *, episodes: int, deterministic: bool
) -> list[Episode]:
    """Play on from the first observations until the given number of episodes have ended.

    Each copy plays an equal share, decided in advance. Taking the first episodes to end, from any
    copy, would overrepresent short episodes.
    """
    played: list[Episode] = []
    copies = environment.num_copies
    left = [(episodes + copy) // copies for copy in range(copies)]
    since_end = 0
    while any(left):
        step = checked_step(environment, agent.act_in_rows(observations, deterministic=deterministic), RunError)
        observations = step.observations
        ended = step.terminated | step.truncated
        if ended.any():
            agent.reset(ended)
        since_end += 1
        for episode in step.episodes:
            if left[episode.copy]:
                left[episode.copy] -= 1
                since_end = 0
                played.append(episode)
        if since_end > MAX_STEPS:
            raise RunError(
                f"{environment.name}: no episode has ended within {MAX_STEPS} steps; give the environment a time limit"
            )
    return played
