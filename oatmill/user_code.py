"""Finds the line of a user's own code at which an error was raised."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from functools import cache
from pathlib import Path
from types import FrameType

OATMILL = Path(__file__).resolve().parent.parent
FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>\S+)', re.MULTILINE)
"""A stack frame in the output of `faulthandler`, the innermost first."""
PACKAGES = ("actors", "agent", "deploy", "learner", "oatmill", "protocol", "recipes", "replay", "runner")


def place_of(error: BaseException) -> str:
    """Return the last line of the user's code in a traceback, as `maze.py:12, in step`; empty if none.

    The user's code is everything that belongs neither to oatmill, nor to Python, nor to an
    installed package.
    """
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if is_users(code.co_filename):
            place = place_in_words(code.co_filename, trace.tb_lineno, code.co_name)
        trace = trace.tb_next
    return place


def frames_of(error: BaseException, most: int = 4) -> list[str]:
    """Return the last lines of the user's code in a traceback, each with its source, the innermost last.

    The errors that this one was raised from count, too.

    Args:
        error: the error.
        most: the number of lines at most.
    """
    frames: list[str] = []
    found: BaseException | None = error
    while found is not None:
        trace = [frame for frame in traceback.extract_tb(found.__traceback__) if is_users(frame.filename)]
        frames += [f"{place_in_words(frame.filename, frame.lineno or 0, frame.name)}: {frame.line}" for frame in trace]
        found = found.__cause__
    return frames[-most:]


def place_in_frames(frame: FrameType | None) -> str:
    """Return the innermost line of the user's code among a frame and its callers, like `place_of`."""
    while frame is not None and not is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return "" if frame is None else place_in_words(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def place_in_stacks(text: str) -> str:
    """Return the innermost line of the user's code in stacks that `faulthandler` has written, like `place_of`."""
    for found in FRAME.finditer(text):
        if is_users(found["file"]):
            return place_in_words(found["file"], found["line"], found["function"])
    return ""


def place_in_words(file: str, line: int | str, function: str) -> str:
    """Return a place as text, with the file's path relative to the current folder."""
    try:
        folder = f"{os.getcwd()}{os.sep}"  # noqa: PTH109  (compared as text, as code objects have it)
    except OSError:  # the current folder was removed
        folder = ""
    return f"{file.removeprefix(folder)}:{line}, in {function}"


def is_users(file: str) -> bool:
    """Whether a source file belongs to the user."""
    return not file.startswith(_others())


@cache
def _others() -> tuple[str, ...]:
    """Return how the paths of oatmill, Python and installed packages begin.

    Code without a file has a name such as `<string>`.
    """
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    ours = {str(OATMILL / package) for package in PACKAGES}
    return ("<", *(f"{folder}{os.sep}" for folder in installed | ours))
