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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import TyperException

PREFIX = "oatmill: error: "
ASKERS = {"status", "top", "scale", "stop"}
"""Commands that ask a run for something; nothing starts them again."""
READERS = ("doctor", "plot", "status", "top")
"""Commands that only read a run's folder, which a disk or somebody's hand may have damaged."""
UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
STDERR = 2
CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def main() -> None:
    """Run `oatmill` with the process's arguments and exit: 0 done, 1 the run failed, 2 bad input."""
    open_standard_streams()
    code = run_command(sys.argv[1:])
    if threading.active_count() > 1:  # a recipe or a network of the user's own may have left threads behind
        from oatmill.children.leaving import leave  # noqa: PLC0415

        leave(code)
    sys.exit(code)


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


def problem_with_packages() -> str:
    """What is wrong with where Python finds oatmill's packages; empty if nothing is."""
    try:
        import oatmill.errors  # noqa: F401, PLC0415  (oatmill checks where all of its packages come from)
    except ModuleNotFoundError as error:
        return f"another package named oatmill comes first on Python's path ({error}); leave that folder"
    except ImportError as error:
        return str(error)
    return ""


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command; every error but one of standard output becomes one line."""
    if problem := problem_with_packages():
        return complain(problem, BAD_INPUT)
    from typer import TyperException  # noqa: PLC0415

    from oatmill.errors import NotLetInError, OatmillError  # noqa: PLC0415

    try:
        from deploy.cli.app import app  # noqa: PLC0415

        code = app(list(arguments), prog_name="oatmill", standalone_mode=False)
    except TyperException as error:
        return refuse(error)
    except OatmillError as error:
        wrong_key = isinstance(error, NotLetInError) and arguments[0] in ASKERS
        return complain(str(error), BAD_INPUT if wrong_key else error.exit_code)
    except SystemExit as leaving:
        from oatmill.children.apart import in_words  # noqa: PLC0415
        from oatmill.children.places import place_of  # noqa: PLC0415

        if not place_of(leaving):
            raise  # Typer's, whose reader has enough, and no recipe, network or loss of the user's own
        return complain(f"code that your settings name {in_words(leaving)}", BAD_INPUT)
    except Exception as error:
        if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and is_about_output(error)):
            raise
        return complain(*unexpected(error, arguments))
    return code if isinstance(code, int) else 0


def refuse(error: TyperException) -> int:
    """Answer a command line that Typer does not take. A command that only has commands below it shows its help instead."""
    if type(error).__name__ == "NoArgsIsHelpError":  # typer has no public name for it
        sys.stdout.write(f"{error.format_message()}\n")
        return 0
    return complain(f"{error.format_message().rstrip('.')}; {hint(error)}", BAD_INPUT)


def unexpected(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """The message and the exit code of an unexpected error: a damaged file of the run folder, or a defect of ours."""
    if arguments[:1] and arguments[0] in READERS and isinstance(error, UNREADABLE):
        return (
            f"a file of the run's folder does not hold what {arguments[0]} expects ({type(error).__name__}: {error}): it "
            "is damaged, or of another version; --log-level debug shows where",
            BAD_INPUT,
        )
    return f"{type(error).__name__}: {error}; this is a defect, --log-level debug shows where", FAILED


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
        from oatmill.process.outlet import write_within  # noqa: PLC0415
    except ImportError:  # another package named protocol is in the way, which is what the line says
        sys.stderr.write(line)
    else:
        write_within(sys.stderr, line)
