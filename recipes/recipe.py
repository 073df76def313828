"""What a recipe is: a name, a line about it, and a function that returns a run's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.settings import RunSettings


@dataclass(frozen=True)
class Recipe:
    """Something that can be trained.

    Attributes:
        name: as `oatmill train` takes it.
        summary: one line for `oatmill recipes`.
        settings: builds the recipe's settings, with its own defaults.
    """

    name: str
    summary: str
    settings: Callable[[], RunSettings]
