"""Checks the types of arguments of the Python API, so that a wrong one is told in one line before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Integral
from types import NoneType
from typing import Any

from oatmill.errors import UserError
from oatmill.settings.complaints import show

WORDS: Mapping[type, str] = {
    str: "text",
    bool: "True or False",
    Integral: "a whole number",
    os.PathLike: "a path",
    Mapping: "a mapping",
    NoneType: "None",
}
TEXT, FLAG, COUNT, PATH = (str,), (bool,), (Integral,), (str, os.PathLike)
OR_NONE = (NoneType,)


def check_types(given: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> None:
    """Check that each argument has one of its types. True and False are no numbers.

    Args:
        given: the values by name, such as the `locals()` of a function that begins; others than those of `types` do not count.
        types: the types that each may have.

    Raises:
        UserError: if one has another type; names the argument, its types and what came.
    """
    for name, allowed in types.items():
        value = given[name]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            words = " or ".join(WORDS.get(kind, kind.__name__) for kind in allowed)
            raise UserError(f"{name} must be {words}, got {show(value)} ({type(value).__name__})")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise a UserError unless a value is one of some words."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}, got {show(value)}")


def check_methods(name: str, value: Any, methods: tuple[str, ...], example: str) -> None:
    """Check that an argument is an object with some methods, and not a class.

    Raises:
        UserError: if it is not; `example` is a class that has them.
    """
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods):
        raise UserError(
            f"{name} must be an object with the methods {', '.join(methods)}, such as one of {example}, got {show(value)}"
            f"{' (a class; call it to make an object)' if isinstance(value, type) else f' ({type(value).__name__})'}"
        )
