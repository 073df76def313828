"""YAML in which 1e6, 3e-4 and nan are numbers; plain YAML 1.1 reads them as text."""

from __future__ import annotations

import re
from typing import Any

import yaml

EXPONENT = re.compile(r"^[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+$")
NOT_FINITE = re.compile(r"^[-+]?(nan|inf|infinity)$", re.IGNORECASE)
FLOAT = "tag:yaml.org,2002:float"


class SettingsLoader(yaml.SafeLoader):
    """Reads settings. A key that stands twice in a mapping is an error; YAML itself would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Build a mapping."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


class SettingsDumper(yaml.SafeDumper):
    """Writes settings: text that `SettingsLoader` would take for a number is quoted."""


for _format in (SettingsLoader, SettingsDumper):
    _format.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))
    _format.add_implicit_resolver(FLOAT, NOT_FINITE, list("-+nNiI"))


def load(text: str) -> Any:
    """Parse YAML into plain values.

    Raises:
        ValueError: if the text is not YAML; one line says where the error is.
    """
    try:
        return yaml.load(text, SettingsLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def dump(values: Any) -> str:
    """Return plain values as YAML that `load`, and every other YAML reader, reads exactly."""
    return yaml.dump(values, Dumper=SettingsDumper, sort_keys=False)
