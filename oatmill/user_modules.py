"""Imports user code: installed modules, and after them modules in the current folder."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from oatmill.errors import UserError, one_line
from oatmill.user_code import PACKAGES


def import_own(name: str) -> ModuleType:
    """Import a module that is installed or in the current folder.

    The current folder is searched last, so that its modules cannot replace installed packages.

    Raises:
        ImportError: as `import` does.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def import_named(name: str, *, what: str) -> ModuleType:
    """Import a module that the user has named.

    Args:
        name: the module's name.
        what: where the user named it, for messages, such as `env.factory maze:make`.

    Raises:
        UserError: if it cannot be imported, or is the user's main script.
    """
    if name == "__main__":
        raise UserError(
            f"{what} is a function of your script itself, which the run's processes cannot import without running the script "
            "again; move it to a module next to the script, such as my_env.py, and name it as my_env:function"
        )
    try:
        return import_own(name)
    except Exception as error:
        raise UserError(
            f"{what}: module {name} cannot be imported ({one_line(error)}); expected a module that is installed or lies in "
            f"{Path.cwd()}{hidden(name, str(error))}"
        ) from error


def load_function(path: str, *, what: str, gives: str) -> Callable[..., Any]:
    """Load a function from text of the form `module:function`.

    Args:
        path: the text.
        what: the setting or argument that it came from, for messages.
        gives: what the function should return, for messages.

    Raises:
        UserError: if the module cannot be imported or has no such function.
    """
    module_name, _, qualified_name = path.partition(":")
    found: Any = import_named(module_name, what=f"{what} {path}")
    for part in qualified_name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UserError(
            f"{what} {path}: {module_name} has no function {qualified_name}; expected one that returns {gives}"
            f"{hidden(module_name)}"
        )
    return found  # type: ignore[no-any-return]


def hidden(name: str, problem: str = "") -> str:
    """Return a hint for an error message if another module hides one in the current folder.

    Args:
        name: the module that was requested.
        problem: the error's text; oatmill packages that it mentions are checked, too.
    """
    tops = (name.partition(".")[0], *(package for package in PACKAGES if f"'{package}" in problem))
    taken = [top for top in dict.fromkeys(tops) if _is_passed_over(top)]
    if not taken:
        return ""
    return (
        f"; {' and '.join(taken)} in {Path.cwd()} cannot be found, since Python or oatmill has a module of that name: "
        "rename yours"
    )


def _is_passed_over(name: str) -> bool:
    """Whether the current folder has a module of this name, but Python imports another one."""
    here = [Path.cwd() / f"{name}.py", Path.cwd() / name]
    if not any(path.exists() for path in here):
        return False
    found = importlib.util.find_spec(name)
    places = [found.origin, *(found.submodule_search_locations or ())] if found else []
    return not any(Path(place).is_relative_to(path) for place in places if place for path in here)
