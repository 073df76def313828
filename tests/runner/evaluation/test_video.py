"""Video files: read back with PyAV's and Pillow's own decoders, and what is refused before anything is played."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from oatmill.errors import UserError
from protocol.data.trajectory import Array
from runner.evaluation.video import check_video, write_video

RED, BLUE = (220, 30, 30), (30, 30, 220)


def pictures(number: int, height: int = 120, width: int = 161) -> list[Array]:
    """Red on the left; blue comes in from the right, a tenth further in every picture."""
    made = []
    for step in range(number):
        picture = np.empty((height, width, 3), np.uint8)
        picture[:] = RED
        picture[:, width - width * step // 10 :] = BLUE
        made.append(picture)
    return made


def test_an_mp4_has_every_picture_at_its_rate_enlarged_and_even(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    assert write_video(path, iter(pictures(7)), rate=12.5) == 7
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert float(stream.average_rate or 0) == 12.5
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    # 120 is doubled to reach 240; 161 doubled is even already.
    assert [frame.shape for frame in frames] == [(240, 322, 3)] * 7
    # Left and right edge of the first and the last picture; H.264 keeps colours roughly.
    for frame, right in ((frames[0], RED), (frames[6], BLUE)):
        assert np.abs(frame[120, 20].astype(int) - RED).max() < 25
        assert np.abs(frame[120, 300].astype(int) - right).max() < 25
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_a_height_that_stays_odd_is_padded(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", pictures(2, height=251, width=251), rate=30)
    with av.open(str(tmp_path / "odd.mp4")) as file:
        assert [(frame.height, frame.width) for frame in file.decode(video=0)] == [(252, 252)] * 2


def test_a_gif_has_every_picture_and_their_time(tmp_path: Path) -> None:
    path = tmp_path / "out.gif"
    assert write_video(path, iter(pictures(5)), rate=8.0) == 5
    with Image.open(path) as file:
        assert (getattr(file, "n_frames", 1), file.size) == (5, (322, 240))
        assert file.info["duration"] == 120  # 1000 / 8 = 125 ms; a GIF counts hundredths of a second
        file.seek(4)
        assert file.convert("RGB").getpixel((20, 120)) == RED
        assert file.convert("RGB").getpixel((300, 120)) == BLUE


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_what_breaks_off_leaves_the_file_that_was_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("before")

    def broken() -> Iterator[Array]:
        yield from pictures(3)
        raise RuntimeError("the environment is gone")

    with pytest.raises(RuntimeError, match="the environment is gone"):
        write_video(tmp_path / name, broken(), rate=10)
    assert (tmp_path / name).read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.avi", r"^--record takes a file that ends in \.mp4 or \.gif, got .*out\.avi$"),
        ("out", r"takes a file that ends in"),
        ("nowhere/out.mp4", r"^--record: there is no folder .*nowhere$"),
        ("folder.gif", r"folder\.gif is a folder$"),
    ],
)
def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(UserError, match=message):
        check_video(tmp_path / name)


@pytest.mark.parametrize(("name", "package"), [("out.mp4", "av"), ("out.mp4", "PIL"), ("out.gif", "PIL")])
def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    check_video(tmp_path / name)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == package else find_spec(asked))
    with pytest.raises(UserError, match=rf"^--record needs {package}, which is not installed; pip install 'oatmill\[video\]'$"):
        check_video(tmp_path / name)
