"""Playing episodes with a trained policy, in the environment that it was trained in."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.environment import Environment, Episode, Step, first_observations, make_environment
from actors.settings import EnvSettings
from agent.loading import LoadedAgent, load
from protocol.errors import OatmillError, RunError, SettingsError, UserError, one_line
from protocol.joining import flatten_settings
from protocol.trajectory import Array
from recipes.baselines import random_return
from recipes.settings import RunSettings

LATEST = "latest"
MAX_STEPS = 100_000
"""An episode that has not ended after so many steps never will."""


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint's policy got.

    Attributes:
        checkpoint: its folder.
        learner_step: at which it was saved.
        env_steps: that it was trained on.
        episode_return: mean, std and n.
        episode_length: the mean.
        episode_statistics: the means of the environment's own numbers.
        random_return: what the random policy gets, where that was measured.
        seconds: of playing.
        deterministic: whether the likeliest action was taken instead of drawing one.
        seed: of environment and actions.
    """

    checkpoint: str
    learner_step: int
    env_steps: int
    episode_return: Mapping[str, float]
    episode_length: float
    episode_statistics: Mapping[str, float]
    random_return: float | None
    seconds: float
    deterministic: bool
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def evaluate_checkpoint(path: Path, *, episodes: int, deterministic: bool, seed: int) -> Evaluation:
    """Play episodes one after another, so that short ones count no more than long ones.

    Args:
        path: a checkpoint's folder, wherever it lies, or a run's folder, whose newest checkpoint is taken.
        episodes: how many.
        deterministic: take the likeliest action instead of drawing one.
        seed: of environment and actions.

    Raises:
        UserError: if there is no such checkpoint, or it does not fit the environment.
        RunError: if the environment fails, or an episode does not end.
    """
    checkpoint = find_checkpoint(path)
    agent = load(checkpoint, seed=seed)
    env = environment_of(agent, checkpoint)
    environment = make_environment(env, copies=1, seed=seed)
    started = time.monotonic()
    try:
        check_fit(agent, environment, checkpoint)
        played = play(agent, environment, episodes=episodes, deterministic=deterministic)
    finally:
        environment.close()
    returns = np.asarray([episode.episode_return for episode in played])
    return Evaluation(
        checkpoint=str(checkpoint),
        learner_step=agent.manifest["learner_step"],
        env_steps=agent.manifest["env_steps"],
        episode_return={"mean": float(returns.mean()), "std": float(returns.std()), "n": len(returns)},
        episode_length=float(np.mean([episode.length for episode in played])),
        episode_statistics=mean_statistics(environment.episode_statistics, played),
        random_return=random_return(env),
        seconds=time.monotonic() - started,
        deterministic=deterministic,
        seed=seed,
    )


def find_checkpoint(path: Path) -> Path:
    """A checkpoint's folder, where a run's folder stands for its newest one.

    Raises:
        UserError: if there is none.
    """
    if (path / "config.yaml").is_file():
        return (path / "checkpoints" / LATEST).resolve()
    if not path.is_dir():
        raise UserError(f"{path} is not a checkpoint: expected a folder, such as runs/latest/checkpoints/latest or runs/latest")
    return path.resolve()


def environment_of(agent: LoadedAgent, checkpoint: Path) -> EnvSettings:
    """The settings of the environment that a checkpoint was trained in, which it carries along.

    Raises:
        UserError: if it has none, or they are no environment's.
    """
    try:
        return RunSettings.of(agent.manifest["settings"]).env
    except (KeyError, TypeError, SettingsError) as error:
        raise UserError(f"{checkpoint} does not say which environment it was trained in: {one_line(error)}") from None


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


def mean_statistics(names: Sequence[str], played: Sequence[Episode]) -> dict[str, float]:
    """The mean of each of the environment's own numbers."""
    return {name: float(np.mean([episode.statistics[place] for episode in played])) for place, name in enumerate(names)}
