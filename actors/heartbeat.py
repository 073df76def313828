"""How an actor in a container, which serves nothing, shows that it makes progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from oatmill.errors import UserError


def heartbeat_file(path: Path | None) -> Callable[[], None] | None:
    """Touch a file now, and return what touches it again; None without a file.

    The watchdog touches it every second as long as the last beat is younger than half of `actors.hang_timeout`, so that an
    actor that builds its environment, or is in a long reset, is as healthy as it is in the watchdog's eyes.

    Args:
        path: the file that OATMILL_HEARTBEAT names; None for a process that somebody else watches.

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
        with suppress(OSError):  # the age of the file tells it to whoever looks
            path.touch()

    return touch
