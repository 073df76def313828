"""Calls a user's `module:function` with what it takes: its own arguments, and a seed, an index and a number of copies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from actors.environments.boundary import copy_seeds, vector_seed
from oatmill.user_modules import load_function


class Factory:
    """A user's function that builds environments.

    Of `seed`, `index` and `num_envs`, the function gets those that its signature names and the user has not set.

    Args:
        path: `module:function`.
        kwargs: the arguments that the user has set.
        copies: how many copies this process needs; `num_envs`.
        seed: the root of the copies' seeds.
        first_index: the `index` of the first copy; the next ones count on.

    Raises:
        UserError: if there is no such function.
    """

    def __init__(self, path: str, kwargs: Mapping[str, Any], *, copies: int, seed: int, first_index: int = 0) -> None:
        self._function = load_environment_function(path)
        self._kwargs = dict(kwargs)
        parameters = inspect.signature(self._function).parameters
        self._own = {name for name in ("seed", "index", "num_envs") if name in parameters and name not in kwargs}
        self._copies, self._first_index = copies, first_index
        self._seeds = [vector_seed(seed, copies)] if "num_envs" in self._own else copy_seeds(seed, copies)

    def make(self, copy: int = 0) -> Any:
        """Call the function: for one copy, or once for all if it takes `num_envs`."""
        values = {"seed": self._seeds[copy], "index": self._first_index + copy, "num_envs": self._copies}
        return self._function(**self._kwargs, **{name: values[name] for name in self._own})


def load_environment_function(path: str, what: str = "env.factory") -> Callable[..., Any]:
    """The function that a setting names.

    Raises:
        UserError: if there is none.
    """
    return load_function(path, what=what, gives="an environment")


def accepted(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that the function's signature takes as keyword arguments."""
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in values.items() if takes_any or name in parameters}
