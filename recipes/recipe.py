"""The Recipe class: a name, a one-line summary, and a function that returns a run's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.run import Run
from runner.settings import RunSettings


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        name: name for `oatmill train`.
        summary: one line for `oatmill recipes`.
        settings: function that returns the recipe's settings, with its defaults.
    """

    name: str
    summary: str
    settings: Callable[[], RunSettings]

    def train(self) -> Run:
        """A run of this recipe, to be changed and started."""
        return Run(self.settings(), recipe=self.name)
