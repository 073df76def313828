"""Training without a recipe: settings from an environment that `--env` names, and from its spaces."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.settings import SELECTED_BY
from oatmill.errors import UserError
from protocol.data.spaces import ObservationSpace, Spaces
from recipes.baseline import CHOICES, NUMBERS
from recipes.recipe import Recipe
from runner.overrides import Layer, merged, resolve
from runner.settings import RunSettings

NAMED_BY = {kind: setting for kind, setting in SELECTED_BY.items() if kind != "cogs"}
"""The kinds of environment that a prefix such as `gymnasium:` chooses, and the setting that takes the rest."""
FUNCTION = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


@dataclass(frozen=True)
class EnvironmentRecipe(Recipe):
    """A recipe that has only an environment. `fitting` adds settings for its spaces, once for each environment."""

    fitted: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)

    @property
    def argument(self) -> str:
        """How a command names it."""
        return f"--env {shlex.quote(self.name)}"

    def explicit(self, layers: Sequence[Layer] = ()) -> dict[str, Any]:
        """Its settings for the environment that `layers` change."""
        values = self.settings().explicit()
        settings = resolve(values, layers)
        environment = settings.env.model_dump_json()
        if environment not in self.fitted:
            self.fitted[environment] = fitting(settings)
        return merged(self.fitted[environment], values)


def recipe_of(env: str) -> Recipe:
    """The recipe that `--env` names.

    Args:
        env: `ID` or `gymnasium:ID` of Gymnasium's registry, another kind and its name, such as `atari:pong`, or
            `module:function`.

    Raises:
        UserError: if it is empty.
    """
    if not env.strip():
        raise UserError("--env must be an id such as CartPole-v1, KIND:ID such as atari:pong, or module:function, got nothing")
    return EnvironmentRecipe(env, "", lambda: RunSettings.of({"env": environment_of(env)}))


def environment_of(env: str) -> dict[str, Any]:
    """The `env` root for what `--env` names."""
    kind, _, name = env.partition(":")
    if kind in NAMED_BY and name:
        return {"kind": kind, NAMED_BY[kind]: name}
    if FUNCTION.match(env):
        return {"kind": "factory", "factory": env}
    return {"kind": "gymnasium", "id": env}


def path_of(function: Callable[..., Any]) -> str:
    """`module:function` of a Python function or class that builds an environment.

    Raises:
        UserError: if the run's processes could not import it.
    """
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", None)
    if not inspect.isroutine(function) and not inspect.isclass(function):
        raise UserError(f"env must be an id, module:function or a function, got {type(function).__name__}")
    if module is None or "<" in name:
        raise UserError(
            f"env is {name or function!r}, which the run's processes cannot import; expected a function at the top of a file, "
            "such as my_env.py"
        )
    return f"{module}:{name}"


def fitting(settings: RunSettings) -> dict[str, Any]:
    """Settings for an environment by the kinds of its spaces, as nested values. Builds it once, in a process of its own.

    Raises:
        UserError: if it cannot be built, or oatmill cannot train on it.
    """
    from runner.plan_report import environment_process  # noqa: PLC0415  (only a run without a recipe needs it)

    with environment_process(settings) as environment:
        return settings_for(Spaces.from_dict(environment.result()["spaces"]))


def settings_for(spaces: Spaces) -> dict[str, Any]:
    """The guide's baseline, critic and actor, with settings for observations and actions of these kinds.

    Rewards are normalised, because their scale is not known.
    """
    numbers = spaces.action.dimensions > 0
    return {
        "agent": dict(_agent(spaces.observation)) | ({"value_trunk": "separate"} if numbers else {}),
        "actors": {"count": 2, "envs_per_actor": 16, "unroll_length": 64},
        "trainer": {
            "total_timesteps": 1_000_000,
            "batch_size": 32,
            "normalize_returns": True,
            **(NUMBERS if numbers else CHOICES),
        },
    }


def _agent(observation: ObservationSpace) -> Mapping[str, Any]:
    match observation.kind:
        case "vector":
            return {"hidden_sizes": [64, 64], "value_head": "scalar", "normalize_observations": True}
        case _:
            return {"hidden_sizes": [128, 128], "activation": "relu", "value_head": "scalar"}
