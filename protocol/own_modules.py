"""Importing what a user wrote: modules beside which the command was started are found too, after all that is installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from protocol.errors import UserError, one_line


def import_own(name: str) -> ModuleType:
    """Import a module that is installed, or lies in the current folder.

    The current folder comes last, so that nothing in it takes the place of an installed package.

    Raises:
        ImportError: as `import` does.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def load_function(path: str, *, what: str, gives: str) -> Callable[..., Any]:
    """What `module:function` names.

    Args:
        path: the name.
        what: who names it, for messages: a setting or a command's argument.
        gives: what the function is expected to return, for messages.

    Raises:
        UserError: if the module cannot be imported or has no such function.
    """
    module_name, _, qualified_name = path.partition(":")
    try:
        found: Any = import_own(module_name)
    except Exception as error:
        raise UserError(
            f"{what} {path}: module {module_name} cannot be imported ({one_line(error)}); expected a module that is "
            f"installed or lies in {Path.cwd()}"
        ) from error
    for part in qualified_name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UserError(f"{what} {path}: {module_name} has no function {qualified_name}; expected one that returns {gives}")
    return found  # type: ignore[no-any-return]
