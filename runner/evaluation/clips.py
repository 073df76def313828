"""Short videos of a run's policy while it trains: small GIF files, which the run's loggers show, too."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from actors.environments.filming import make_film
from agent.loading import load
from oatmill.errors import RunError
from oatmill.files.atomic import replacing
from protocol.data.trajectory import Array
from runner.evaluation.evaluation import environment_of
from runner.evaluation.playing import begin
from runner.evaluation.recording import pictures_of
from runner.evaluation.video import enlarged, write_gif
from runner.settings import EvaluatorSettings

VIDEOS = "videos"
"""The folder of the videos, in the run's folder."""
LARGEST = 320
"""Pictures with more rows or columns than this are reduced, by leaving out rows and columns."""
LARGEST_BYTES = 8 * 2**20


def record_clip(checkpoint: Path, path: Path, settings: EvaluatorSettings) -> None:
    """Play one episode with a checkpoint that is trusted, and write a GIF of it.

    Args:
        checkpoint: folder of the checkpoint.
        path: the file; its folder is created.
        settings: the number of pictures, the seed, and which actions are taken.

    Raises:
        UserError: if the environment makes no pictures.
        RunError: if the environment fails, or the file is larger than LARGEST_BYTES.
        OSError: if the file cannot be written.
    """
    agent = load(checkpoint, seed=settings.seed, trust=True)
    film = make_film(environment_of(agent, checkpoint, trust=True), seed=settings.seed)
    try:
        observations = begin(agent, film.environment, checkpoint)
        pictures = pictures_of(agent, film, observations, [], deterministic=settings.best_by == "deterministic")
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as working:
            write_gif(working, (resized(picture) for picture in islice(pictures, settings.video_frames)), film.rate)
            size = working.stat().st_size
            if size > LARGEST_BYTES:
                raise RunError(f"it has {size:,} bytes, at most {LARGEST_BYTES:,} are kept; lower evaluator.video_frames")
    finally:
        film.environment.close()


def resized(picture: Array) -> Array:
    """A picture `[H, W, 3]` of at most LARGEST rows and columns; small ones are enlarged."""
    factor = -(-max(picture.shape[:2]) // LARGEST)
    return picture[::factor, ::factor] if factor > 1 else enlarged(picture)
