"""Evaluates a trained policy in the environment that it was trained in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments.base import Episode
from actors.environments.make import make_environment
from actors.settings import EnvSettings
from agent.checkpoint_manifest import find_checkpoint
from agent.loading import LoadedAgent, load
from oatmill.errors import SettingsError, UserError, one_line
from runner.evaluation.baselines import random_return
from runner.evaluation.playing import begin, play
from runner.evaluation.recording import Recording, record_episode
from runner.evaluation.video import check_video
from runner.settings import RunSettings
from runner.trust import ENVIRONMENT, check_trust


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a checkpoint.

    Attributes:
        checkpoint: folder of the checkpoint.
        learner_step: learner step at which it was saved.
        env_steps: number of environment steps that it was trained on.
        episode_return: mean, std and n.
        episode_length: mean episode length.
        episode_statistics: means of the statistics that the environment reports.
        random_return: return of the random policy, if it was measured.
        seconds: time spent playing.
        deterministic: whether the most likely action was taken instead of sampling.
        seed: seed of environment and actions.
        recording: video of one more episode, if requested.
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
    recording: Recording | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def evaluate_checkpoint(
    path: Path, *, episodes: int, deterministic: bool, seed: int, record: Path | None = None, trust: bool = False
) -> Evaluation:
    """Play episodes with a checkpoint's policy; arguments and errors are those of `evaluated`."""
    with evaluated(path, episodes=episodes, deterministic=deterministic, seed=seed, record=record, trust=trust) as evaluation:
        return evaluation


@contextmanager
def evaluated(
    path: Path, *, episodes: int, deterministic: bool, seed: int, record: Path | None = None, trust: bool = False
) -> Iterator[Evaluation]:
    """Play a fixed number of episodes per copy, so that short episodes are not overrepresented.

    Args:
        path: folder of a checkpoint, or run folder (its newest checkpoint is used).
        episodes: number of episodes.
        deterministic: take the most likely action instead of sampling.
        seed: seed of environment and actions.
        record: file for a video of one more episode, which is not part of the result.
        trust: run custom environment and encoder code that the checkpoint names.

    Raises:
        UserError: if there is no such checkpoint, it does not fit the environment, the video cannot
            be made, or the checkpoint names code without `trust`.
        RunError: if the environment fails, or an episode does not end.
    """
    if record is not None:
        check_video(record)
    checkpoint = find_checkpoint(path)
    agent = load(checkpoint, seed=seed, trust=trust)
    env = environment_of(agent, checkpoint, trust=trust)
    recording = None
    if record is not None:  # first, so that errors are found before hundreds of episodes are played
        actor = load(checkpoint, seed=seed, trust=trust)
        recording = record_episode(actor, env, record, checkpoint=checkpoint, deterministic=deterministic, seed=seed)
    environment = make_environment(env, copies=None, seed=seed)
    started = time.monotonic()
    try:
        observations = begin(agent, environment, checkpoint)
        played = play(agent, environment, observations, episodes=episodes, deterministic=deterministic)
        returns = np.asarray([episode.episode_return for episode in played])
        yield Evaluation(
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
            recording=recording,
        )
    finally:
        environment.close()


def environment_of(agent: LoadedAgent, checkpoint: Path, *, trust: bool) -> EnvSettings:
    """The settings of the environment that a checkpoint was trained in; the checkpoint stores them.

    Raises:
        UserError: if they are missing or invalid, or name code without `trust`.
    """
    try:
        settings = RunSettings.of(agent.manifest["settings"])
    except (KeyError, TypeError, SettingsError) as error:
        raise UserError(f"{checkpoint} has no valid settings of its environment: {one_line(error)}") from None
    check_trust(settings, checkpoint, trust=trust, places=ENVIRONMENT)
    return settings.env


def mean_statistics(names: Sequence[str], played: Sequence[Episode]) -> dict[str, float]:
    """The mean of each statistic that the environment reports, over the episodes that had it, if any had."""
    values = {name: np.array([episode.statistics[place] for episode in played]) for place, name in enumerate(names)}
    return {name: float(np.nanmean(found)) for name, found in values.items() if not np.isnan(found).all()}
