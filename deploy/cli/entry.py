"""The way into every command, and what becomes of errors: one line on stderr, never a traceback that was not asked for."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence

PREFIX = "oatmill: error: "
READERS = ("doctor", "plot", "status", "top")
"""Commands that only read a run's folder, which a disk or somebody's hand may have damaged."""
UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
STDERR = 2
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_TEXT = "the output, or a file of the run, could not be written; make room"


def main() -> None:
    """Run `oatmill` with the process's arguments and exit: 0 done, 1 the run failed, 2 bad input."""
    open_standard_streams()
    sys.exit(run_command(sys.argv[1:]))


def open_standard_streams() -> None:
    """Open the null device for each standard stream that this process was started without (`>&-`).

    Else the next file that is opened would take its place, and what is printed would land in it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        name = ("stdin", "stdout", "stderr")[descriptor]
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False))
    os.close(descriptor)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: what follows `oatmill`.
    """
    try:
        code = dispatch(arguments)
        sys.stdout.flush()
    except OSError as error:
        # The reader has enough, or there is no room. Python would complain once more when it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED if isinstance(error, BrokenPipeError) else complain(f"{error.strerror}: {FULL_TEXT}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command; every error but a closed pipe becomes one line."""
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
    except Exception as error:  # a defect of ours is told in one line too
        if isinstance(error, OSError) and error.errno in {errno.EPIPE, *FULL}:
            raise
        if arguments[:1] and arguments[0] in READERS and isinstance(error, UNREADABLE):
            return complain(
                f"a file of the run's folder does not hold what {arguments[0]} expects ({type(error).__name__}: {error}): it "
                "is damaged, or of another version; --log-level debug shows where",
                BAD_INPUT,
            )
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
        say(f"{PREFIX}{' '.join(message.split())}\n")
    return code


def say(line: str) -> None:
    """Write a line on stderr, without waiting for ever where nobody reads it."""
    try:
        from protocol.outlet import write_within  # noqa: PLC0415
    except ImportError:  # another package named protocol is in the way, which is what the line says
        sys.stderr.write(line)
    else:
        write_within(sys.stderr, line)
