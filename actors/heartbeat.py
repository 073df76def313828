"""A heartbeat file, by which an actor in a container shows that it makes progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from oatmill.errors import UserError


def heartbeat_file(path: Path | None) -> Callable[[], None] | None:
    """Touch a file and return a function that touches it again; None without a file.

    The watchdog calls the function every second while the last beat is younger than half of
    `actors.hang_timeout`. So an actor is also healthy while it builds or resets its environment.

    Args:
        path: the file that OATMILL_HEARTBEAT names; None if no file is wanted.

    Raises:
        UserError: if the file cannot be written.
    """
    if path is None:
        return None
    try:
        path.touch()
    except OSError as error:
        raise UserError(f"OATMILL_HEARTBEAT={path} cannot be written: {error.strerror}; name another file") from None

    def touch() -> None:
        with suppress(OSError):  # the file then becomes old, which shows the problem
            path.touch()

    return touch
