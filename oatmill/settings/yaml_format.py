"""YAML as people type numbers: 1e6 and 3e-4 are numbers (plain YAML 1.1 takes them for text), and so is nan."""

from __future__ import annotations

import re
from typing import Any

import yaml

EXPONENT = re.compile(r"^[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+$")
NOT_FINITE = re.compile(r"^[-+]?(nan|inf|infinity)$", re.IGNORECASE)
FLOAT = "tag:yaml.org,2002:float"


class SettingsLoader(yaml.SafeLoader):
    """Reads settings."""


class SettingsDumper(yaml.SafeDumper):
    """Writes settings: text that `SettingsLoader` would take for a number is quoted."""


for _format in (SettingsLoader, SettingsDumper):
    _format.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))
    _format.add_implicit_resolver(FLOAT, NOT_FINITE, list("-+nNiI"))


def load(text: str) -> Any:
    """Plain values from YAML.

    Raises:
        ValueError: one line that says where the text is not YAML.
    """
    try:
        return yaml.load(text, SettingsLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def dump(values: Any) -> str:
    """YAML that `load`, and any other reader of YAML, reads back exactly."""
    return yaml.dump(values, Dumper=SettingsDumper, sort_keys=False)
