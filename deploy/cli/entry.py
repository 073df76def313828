"""The way into every command, and what becomes of errors: one line on stderr, never a traceback that was not asked for."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import traceback
from collections.abc import Sequence

PREFIX = "oatmill: error: "
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def main() -> None:
    """Run `oatmill` with the process's arguments and exit: 0 done, 1 the run failed, 2 bad input."""
    replace_closed_streams()
    code = run_command(sys.argv[1:])
    if threading.active_count() > 1:  # a recipe or a network of the user's own may have left threads behind
        from protocol.leaving import leave  # noqa: PLC0415

        leave(code)
    sys.exit(code)


def replace_closed_streams() -> None:
    """Let a command work whose standard streams are closed: the first file that it opens would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)  # noqa: FBT003  (the library's own signature)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: what follows `oatmill`.
    """
    try:
        code = dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()  # whoever read our output has enough
        return FAILED
    except OSError as error:
        drop_output()
        return complain(f"standard output cannot be written: {error.strerror}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def drop_output() -> None:
    """Send what is still to be written nowhere: Python would complain once more when it flushes at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_about_output(error: OSError) -> bool:
    """Whether it was standard output that could not be written: then one more byte cannot be written either."""
    if error.errno not in CANNOT_WRITE or error.filename is not None:
        return False
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return True
    return False


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command; every error but one of standard output becomes one line."""
    try:
        from protocol.origin import check_packages  # noqa: PLC0415  (what may be wrong is where packages come from)
    except ImportError as error:
        return complain(f"another package named protocol comes first on Python's path ({error}); leave that folder", BAD_INPUT)
    from typer import TyperException  # noqa: PLC0415

    from protocol.errors import OatmillError  # noqa: PLC0415

    try:
        check_packages()
        from deploy.cli.app import app  # noqa: PLC0415

        code = app(list(arguments), prog_name="oatmill", standalone_mode=False)
    except TyperException as error:
        return complain(f"{error.format_message().rstrip('.')}; {hint(error)}", BAD_INPUT)
    except OatmillError as error:
        return complain(str(error), error.exit_code)
    except SystemExit as leaving:
        from protocol.apart import in_words  # noqa: PLC0415
        from protocol.places import place_of  # noqa: PLC0415

        if not place_of(leaving):
            raise  # Typer's, whose reader has enough, and no recipe, network or loss of the user's own
        return complain(f"code that your settings name {in_words(leaving)}", BAD_INPUT)
    except Exception as error:  # a defect of ours is told in one line too
        if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and is_about_output(error)):
            raise
        return complain(f"{type(error).__name__}: {error}; this is a defect, --log-level debug shows where", FAILED)
    return code if isinstance(code, int) else 0


def hint(error: Exception) -> str:
    """Where the user can read what the command takes."""
    context = getattr(error, "ctx", None)
    return f"`{context.command_path if context else 'oatmill'} --help` shows what is expected"


def complain(message: str, code: int) -> int:
    """Write the one line, with a traceback only where debugging was asked for; returns the exit code."""
    if sys.exception() is not None and logging.getLogger().isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{PREFIX}{' '.join(message.split())}\n")
    return code
