"""Writes video files: `.mp4` with PyAV (H.264), `.gif` with Pillow. `oatmill[video]` installs both."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from oatmill.errors import UserError
from oatmill.files.atomic import replacing
from protocol.data.trajectory import Array

PACKAGES = {".mp4": ("av", "PIL"), ".gif": ("PIL",)}
"""The packages for each kind of file; Pillow also draws environments that do not render."""
SMALLEST = 240
"""Pictures with fewer rows than this are enlarged by a whole factor."""


def check_video(path: Path) -> None:
    """Check that a video file can be written.

    Raises:
        UserError: if the file's ending is not supported, its folder does not exist, or a package is
            missing.
    """
    if path.suffix not in PACKAGES:
        raise UserError(f"--record takes a file that ends in {' or '.join(PACKAGES)}, got {path}")
    if not path.parent.is_dir():
        raise UserError(f"--record: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"--record: {path} is a folder")
    missing = [package for package in PACKAGES[path.suffix] if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"--record needs {' and '.join(missing)}, which is not installed; pip install 'oatmill[video]'")


def write_video(path: Path, pictures: Iterable[Array], *, rate: float) -> int:
    """Write a video atomically.

    Args:
        path: video file; an old file is replaced.
        pictures: frames as `[H, W, 3]` bytes, all of the same size; at least one.
        rate: frames per second.

    Returns:
        The number of frames.
    """
    counted = Counted(enlarged(picture) for picture in pictures)
    with replacing(path) as working:
        (write_gif if path.suffix == ".gif" else write_mp4)(working, iter(counted), rate)
    return counted.number


class Counted:
    """Counts frames as they are read."""

    def __init__(self, pictures: Iterable[Array]) -> None:
        self.number = 0
        self._pictures = pictures

    def __iter__(self) -> Iterator[Array]:
        for picture in self._pictures:
            self.number += 1
            yield picture


def enlarged(picture: Array) -> Array:
    """The picture, enlarged if it is small, with even height and width, which H.264 needs."""
    factor = -(-SMALLEST // picture.shape[0])
    larger = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.pad(larger, ((0, larger.shape[0] % 2), (0, larger.shape[1] % 2), (0, 0)), mode="edge")


def write_mp4(path: Path, pictures: Iterator[Array], rate: float) -> None:
    """Write H.264 in the pixel format that all browsers play."""
    import av  # noqa: PLC0415  (of an extra)

    first = next(pictures)
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in chain([first], pictures):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        file.mux(stream.encode(None))


def write_gif(path: Path, pictures: Iterator[Array], rate: float) -> None:
    """Write an animation that loops."""
    from PIL import Image  # noqa: PLC0415  (of an extra)

    first = Image.fromarray(next(pictures))
    further = (Image.fromarray(picture) for picture in pictures)
    duration = max(20, round(1000 / rate))  # browsers slow shorter ones down
    first.save(path, format="GIF", save_all=True, append_images=further, duration=duration, loop=0)
