"""Records a video of one episode, in the environment that the policy was trained in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.environments.base import Episode
from actors.environments.checks import checked_step
from actors.environments.filming import Film, make_film
from actors.settings import EnvSettings
from agent.loading import LoadedAgent
from oatmill.errors import OatmillError, RunError, one_line
from protocol.data.observations import Observations
from runner.evaluation.playing import MAX_STEPS, begin
from runner.evaluation.video import write_video


@dataclass(frozen=True)
class Recording:
    """A video.

    Attributes:
        path: video file.
        frames: number of frames.
        episode_return: return of the recorded episode.
        length: number of steps of that episode.
    """

    path: str
    frames: int
    episode_return: float
    length: int


def record_episode(
    agent: LoadedAgent, env: EnvSettings, path: Path, *, checkpoint: Path, deterministic: bool, seed: int
) -> Recording:
    """Play one episode and write a video of it.

    Args:
        agent: freshly loaded policy.
        env: settings of the environment.
        path: video file, checked by `runner.evaluation.video.check_video`.
        checkpoint: checkpoint of the agent, for messages.
        deterministic: take the most likely action instead of sampling.
        seed: seed of the environment.

    Raises:
        UserError: if the environment cannot render frames.
        RunError: if the environment fails, the episode does not end, or the file cannot be written.
    """
    film = make_film(env, seed=seed)
    played: list[Episode] = []
    try:
        observations = begin(agent, film.environment, checkpoint)
        frames = write_video(path, pictures_of(agent, film, observations, played, deterministic=deterministic), rate=film.rate)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or one_line(error)}") from error
    finally:
        film.environment.close()
    return Recording(str(path), frames, played[0].episode_return, played[0].length)


def pictures_of(
    agent: LoadedAgent, film: Film, observations: Observations, played: list[Episode], *, deterministic: bool
) -> Iterator[Any]:
    """Play one episode, which has begun, and yield its frames; the episode is added to `played` at its end."""
    try:
        yield from film.take(ended=False)
        for _ in range(MAX_STEPS):
            step = checked_step(film.environment, agent.act_in_rows(observations, deterministic=deterministic), RunError)
            observations = step.observations
            ended = step.terminated | step.truncated
            if ended.any():
                agent.reset(ended)
            yield from film.take(ended=bool(step.episodes))
            if step.episodes:
                played.append(step.episodes[0])
                return
    except OatmillError:
        raise
    except OSError as error:  # the camera's; a file that cannot be written is not raised in here
        raise RunError(f"{film.environment.name} raised an exception during recording: {one_line(error)}") from error
    raise RunError(f"{film.environment.name}: the episode has not ended within {MAX_STEPS} steps; give it a time limit")
