"""The Recipe class: a name, a one-line summary, and a function that returns a run's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.settings import SELECTED_BY
from runner.overrides import Layer, merged, resolve
from runner.run import Run
from runner.settings import RunSettings


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        name: name for `oatmill train`.
        summary: one line for `oatmill recipes`.
        settings: function that returns the recipe's settings, with its defaults.
        by_environment: nested settings that replace some of these, for environments that need others; by `env.id`,
            or by what else selects an environment of this kind (`env.game`).
    """

    name: str
    summary: str
    settings: Callable[[], RunSettings]
    by_environment: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def argument(self) -> str:
        """How a command names it."""
        return self.name

    def explicit(self, layers: Sequence[Layer] = ()) -> dict[str, Any]:
        """The recipe's settings, as nested values without defaults, for the environment that `layers` choose."""
        values = self.settings().explicit()
        if not self.by_environment:
            return values
        env = resolve(values, layers).env
        return merged(values, self.by_environment.get(getattr(env, SELECTED_BY[env.kind]), {}))

    def resolved(self, layers: Sequence[Layer]) -> RunSettings:
        """The recipe's settings under `layers`."""
        return resolve(self.explicit(layers), layers)

    def train(self) -> Run:
        """A run of this recipe, to be changed and started."""
        return Run(RunSettings.of(self.explicit()), recipe=self.name)
