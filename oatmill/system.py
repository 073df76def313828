"""The operating systems that oatmill runs on."""

from __future__ import annotations

import sys

from oatmill.errors import UserError

TESTED = "linux"
UNTESTED = ("darwin",)
"""Nothing is known that keeps a run on one machine from working there, but nobody has tried."""


def check_system() -> None:
    """Raise a UserError on a system without what every run needs, such as file locks and Unix sockets."""
    if sys.platform not in (TESTED, *UNTESTED):
        raise UserError(f"oatmill needs Linux (macOS is not tested), got {sys.platform}; on Windows, use WSL 2 or a container")


def system_note() -> str | None:
    """What is different on a system other than Linux, in one line; None on Linux."""
    if sys.platform == TESTED:
        return None
    return (
        f"oatmill is tested on Linux only, and this is {sys.platform}: processes of a run that is killed (SIGKILL) may stay, "
        "memory limits do not act, and batches are not passed in shared memory"
    )
