"""What `--param` says: the range of one setting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from oatmill.errors import SettingsError
from oatmill.settings import yaml_format

FORMS = "KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=[A, B, C]"
RANGE = ".."
LOG = ":log"


@dataclass(frozen=True)
class Parameter:
    """A setting that a sweep changes.

    Attributes:
        path: the setting's dotted path.
        choices: its values; empty for a range.
        low: the lower end of a range, included.
        high: its upper end, included.
        log: whether values are drawn evenly over the logarithm.
    """

    path: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def text(self) -> str:
        """What `--param` says, in one form."""
        if self.choices:
            return f"{self.path}={json.dumps(self.choices)}"
        return f"{self.path}={self.low}{RANGE}{self.high}{LOG if self.log else ''}"

    @property
    def ends(self) -> tuple[Any, Any]:
        """Two values, to check that the setting takes them."""
        return (self.choices[0], self.choices[-1]) if self.choices else (self.low, self.high)

    def distribution(self) -> Any:
        """Optuna's distribution. Lists and other values that Optuna cannot store are given by their place."""
        from optuna.distributions import (  # noqa: PLC0415  (of an extra)
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.choices:
            return CategoricalDistribution([yaml_format.dump(choice).strip() for choice in self.choices])
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def value(self, drawn: Any) -> Any:
        """The setting's value for what Optuna has drawn."""
        if not self.choices:
            return drawn
        return next(choice for choice in self.choices if yaml_format.dump(choice).strip() == drawn)


def parse_parameter(text: str) -> Parameter:
    """Read `KEY=RANGE`.

    Raises:
        SettingsError: if it is none of the forms, or the range is empty.
    """
    path, equals, given = (part.strip() for part in text.partition("="))
    if not equals or not path or not given:
        raise SettingsError(f"--param must be {FORMS}, got {text!r}")
    if RANGE in given:
        return _range(path, given, text)
    try:
        choices = yaml_format.load(given if given.startswith("[") else f"[{given}]")
    except ValueError:
        choices = None
    if not isinstance(choices, list) or len(choices) < 2:  # noqa: PLR2004
        raise SettingsError(f"--param {path} must be a range or at least two values: {FORMS}, got {given}")
    return Parameter(path, tuple(choices))


def _range(path: str, given: str, text: str) -> Parameter:
    low, high = (part.strip() for part in given.removesuffix(LOG).split(RANGE, 1))
    try:
        ends = [int(end) if end.lstrip("-").isdigit() else float(end) for end in (low, high)]
    except ValueError:
        raise SettingsError(f"--param must be {FORMS}, got {text!r}") from None
    log = given.endswith(LOG)
    if not ends[0] < ends[1]:
        raise SettingsError(f"--param {path}: the first number must be below the second, got {low} to {high}")
    if log and ends[0] <= 0:
        raise SettingsError(f"--param {path}: a logarithmic range must start above 0, got {low}")
    return Parameter(path, low=ends[0], high=ends[1], log=log)
