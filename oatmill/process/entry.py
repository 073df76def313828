"""The start and the end of a role's process: options, logging, config.yaml, and one line for an error."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from oatmill.errors import OatmillError, SettingsError, UserError, one_line
from oatmill.process.last_words import inherit, say_last
from oatmill.settings import yaml_format
from oatmill.user_code import frames_of

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

log = logging.getLogger("oatmill.process")

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
ROOTS = ("env", "agent", "actors", "replay", "trainer", "metrics")
"""The top-level names of config.yaml that its roles read."""
KNOWN = (*ROOTS, "evaluator")


def role_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all roles have."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--config", type=Path, required=True, help="the run's config.yaml")
    parser.add_argument("--keys", type=Path, help="folder of this role's keys, made by `oatmill keygen`")
    parser.add_argument("--log-level", default="info", choices=LOG_LEVELS, help="how much is logged")
    return parser


def configure_logging(level: str | int) -> None:
    """Log to standard error, one line per record."""
    logging.basicConfig(level=level.upper() if isinstance(level, str) else level, format=LOG_FORMAT, stream=sys.stderr)


def run_to_exit(main: Callable[[], int], *, shown: bool = True) -> int:
    """Run a process's main function and return its exit code.

    An oatmill error becomes one line, after the lines of the user's code that it came from. With --log-level debug, its
    traceback is logged as well.

    Args:
        main: the function; it returns the exit code.
        shown: whether the line is written to standard error and not only sent to the parent process.
    """
    inherit()
    try:
        return main()
    except OatmillError as error:
        log.debug("this process ends because of an error", exc_info=error)
        for frame in frames_of(error):
            with contextlib.suppress(OSError):  # the disk may be full
                sys.stderr.write(f"  {frame}\n")
        say_last(f"oatmill: error: {' '.join(str(error).split())}\n", shown=shown)
        return error.exit_code


def read_roots(path: Path, *, required: Collection[str] = ROOTS) -> dict[str, Any]:
    """Read config.yaml as plain values.

    Args:
        path: the file.
        required: the top-level names that the process needs.

    Raises:
        UserError: if the file cannot be read, is not YAML, lacks a required name or has an unknown
            name.
    """
    try:
        roots = yaml_format.load(path.read_text())
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}; expected a run's config.yaml") from error
    except ValueError as error:
        raise UserError(f"--config {path}: expected a run's config.yaml, got {one_line(error)}") from error
    if not isinstance(roots, dict):
        raise UserError(f"--config {path}: expected a run's config.yaml, got {type(roots).__name__} at its top")
    unknown = [str(name) for name in roots if name not in KNOWN]
    if unknown:
        raise UserError(f"--config {path}: {', '.join(unknown)}: expected only {', '.join(KNOWN)} at the top of the file")
    missing = [name for name in required if not isinstance(roots.get(name), dict)]
    if missing:
        raise UserError(f"--config {path} lacks {', '.join(missing)}; it is the config.yaml that `oatmill train` writes")
    return roots


def settings_of(model: type[Model], roots: Mapping[str, Any], path: Path) -> Model:
    """Validate the settings that a process needs.

    Args:
        model: has a field for each top-level name that the process needs, and ignores the others.
        roots: the result of `read_roots`.
        path: the file that they come from, for messages.

    Raises:
        SettingsError: names the first setting that is missing, unknown or out of bounds.
    """
    from pydantic import ValidationError  # noqa: PLC0415  (the replay server starts without it)

    from oatmill.settings.complaints import describe_error  # noqa: PLC0415

    try:
        return model.model_validate(roots)
    except ValidationError as error:
        raise SettingsError(f"--config {path}: {describe_error(model, error)}") from error
