"""Where in a user's own code an error came from."""

from __future__ import annotations

import os
import sysconfig
from functools import cache
from pathlib import Path

OATMILL = Path(__file__).resolve().parents[2]
PACKAGES = ("actors", "agent", "deploy", "learner", "oatmill", "protocol", "recipes", "replay", "runner")


def place_of(error: BaseException) -> str:
    """The last line of the user's code that an error went through, as `maze.py:12, in step`; empty if there is none.

    The user's code is all that is neither oatmill's, nor Python's, nor an installed package's.
    """
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if is_users(code.co_filename):
            place = place_in_words(code.co_filename, trace.tb_lineno, code.co_name)
        trace = trace.tb_next
    return place


def place_in_words(file: str, line: int | str, function: str) -> str:
    """A place, with the file as it is seen from the current folder."""
    try:
        folder = f"{os.getcwd()}{os.sep}"  # noqa: PTH109  (compared as text, as code objects have it)
    except OSError:  # the user's code, or somebody else, has removed it
        folder = ""
    return f"{file.removeprefix(folder)}:{line}, in {function}"


def is_users(file: str) -> bool:
    """Whether a source file is the user's own."""
    return not file.startswith(_others())


@cache
def _others() -> tuple[str, ...]:
    """How the paths of oatmill, Python and installed packages begin; code without a file has a name such as `<string>`."""
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    ours = {str(OATMILL / package) for package in PACKAGES}
    return ("<", *(f"{folder}{os.sep}" for folder in installed | ours))
