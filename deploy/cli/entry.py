"""The entry point of the command line: every error is one line on stderr, without a traceback."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import TyperException

PREFIX = "oatmill: error: "

try:
    from oatmill.process.exit_codes import BAD_INPUT, FAILED, INTERRUPTED
except ImportError as problem:  # oatmill checks, when it is imported, where all of its packages come from
    shadowed = isinstance(problem, ModuleNotFoundError)
    text = f"another package named oatmill is first on Python's path ({problem}); start the command in another folder"
    sys.stderr.write(f"{PREFIX}{text if shadowed else problem}\n")
    raise SystemExit(2) from None

ASKERS = {"status", "top", "scale", "stop"}
"""Commands that send requests to a run. For them a wrong key is bad input."""
NUMBERS = {"int_parsing": "a whole number", "int_from_float": "a whole number", "float_parsing": "a number"}
"""What an option expects, by pydantic's type of error."""
BOUNDS = {
    "greater_than_equal": "of at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "of at most {le}",
    "less_than": "below {lt}",
}
"""The same for a number beyond its bounds."""
NO_DASHES = "a setting is written without dashes"
STDERR = 2
CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def main() -> None:
    """Run `oatmill` with the process's arguments. Exit code 0: success, 1: failure, 2: bad input."""
    open_standard_streams()
    code = run_command(sys.argv[1:])
    if threading.active_count() > 1:  # a user's recipe or network may have started threads
        from oatmill.children.leaving import leave  # noqa: PLC0415

        leave(code)
    sys.exit(code)


def open_standard_streams() -> None:
    """Open the null device for each standard stream that is closed at the start (`>&-`).

    Otherwise the next opened file would get the stream's descriptor, and output would be written to it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        name = ("stdin", "stdout", "stderr")[descriptor]
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False))
    os.close(descriptor)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: the arguments after `oatmill`.
    """
    try:
        code = dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()  # the reader of the output has closed it
        return FAILED
    except OSError as error:
        drop_output()
        return complain(f"standard output cannot be written: {error.strerror}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def drop_output() -> None:
    """Redirect further output to the null device, so that Python's flush at exit does not fail."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_about_output(error: OSError) -> bool:
    """Whether standard output was the file that could not be written; tested with one more byte."""
    if error.errno not in CANNOT_WRITE or error.filename is not None:
        return False
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return True
    return False


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command. Every error becomes one line, except errors of standard output."""
    from typer import TyperException  # noqa: PLC0415

    from oatmill.errors import NotLetInError, OatmillError  # noqa: PLC0415

    if (option := empty_option(arguments)) is not None:
        return complain(f"{option}: expected a value, got an empty string; is a variable of your shell not set?", BAD_INPUT)
    try:
        from deploy.cli.app import app  # noqa: PLC0415

        code = app(list(arguments), prog_name="oatmill", standalone_mode=False)
    except TyperException as error:
        return refuse(error)
    except OatmillError as error:
        wrong_key = isinstance(error, NotLetInError) and arguments[0] in ASKERS
        return complain(str(error), BAD_INPUT if wrong_key else error.exit_code)
    except SystemExit as leaving:
        from oatmill.children.worker import in_words  # noqa: PLC0415
        from oatmill.user_code import place_of  # noqa: PLC0415

        if not place_of(leaving):
            raise  # from Typer, and not from a user's code
        return complain(f"code that your settings name {in_words(leaving)}", BAD_INPUT)
    except Exception as error:
        if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and is_about_output(error)):
            raise
        return complain(f"{type(error).__name__}: {error}; this is a bug, --log-level debug shows the stack trace", FAILED)
    return code if isinstance(code, int) else 0


def empty_option(arguments: Sequence[str]) -> str | None:
    """The first option with an empty value, which a path would take for the current folder; None if there is none."""
    for argument, following in pairwise([*arguments, "end"]):
        option, equals, value = argument.partition("=")
        if option.startswith("--") and not (value if equals else following):
            return option
    return None


def refuse(error: TyperException) -> int:
    """Answer a command line that Typer does not take. A command that only has commands below it shows its help instead."""
    if type(error).__name__ == "NoArgsIsHelpError":  # typer has no public name for it
        sys.stdout.write(f"{error.format_message()}\n")
        return 0
    message, advice = told(error), hint(error)
    if advice.startswith(NO_DASHES):  # options that sound like it are no help then
        message = message.partition(" (Possible options: ")[0]
    return complain(f"{message}; {advice}", BAD_INPUT)


def told(error: TyperException) -> str:
    """Typer's message without the words of pydantic, which it uses. For a number, also the value and what the option means."""
    message, errors = error.format_message().rstrip("."), getattr(error.__cause__, "errors", None)
    first = errors()[0] if callable(errors) else {}
    bound = BOUNDS.get(first.get("type", ""), "").format(**first.get("ctx", {}))
    expected = f"a number {bound}" if bound else NUMBERS.get(first.get("type", ""))
    if expected is None:
        return message.replace(": Value error, ", ": ")
    meaning = str(getattr(getattr(error, "param", None), "help", None) or "").partition(". ")[0].rstrip(".")
    option = message.partition(": ")[0]
    unit = "" if bound else ", without a unit"
    return f"{option}: expected {expected}{unit}, got {first['input']!r}{f' ({meaning})' if meaning else ''}"


def hint(error: Exception) -> str:
    """How a setting that was written as an option is written, or else a reference to the command's help."""
    from oatmill.settings.aliases import ALIASES  # noqa: PLC0415  (only after an error)

    context = getattr(error, "ctx", None)
    name = str(getattr(error, "option_name", None) or "").lstrip("-").replace("-", "_")
    takes_settings = context is not None and any(parameter.name == "assignments" for parameter in context.command.params)
    if takes_settings and ("." in name or name in ALIASES):
        return f"{NO_DASHES}, {ALIASES.get(name, name)}=VALUE"
    return f"`{context.command_path if context else 'oatmill'} --help` shows what is expected"


def complain(message: str, code: int) -> int:
    """Write the error line, with a traceback at log level debug; returns the exit code."""
    if sys.exception() is not None and logging.getLogger().isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    with contextlib.suppress(OSError):
        say(f"{PREFIX}{' '.join(message.split())}\n")
    return code


def say(line: str) -> None:
    """Write a line to standard error, without waiting for ever if nobody reads it."""
    from oatmill.process.nonblocking_output import write_within  # noqa: PLC0415

    write_within(sys.stderr, line)
