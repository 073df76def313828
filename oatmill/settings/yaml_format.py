"""YAML in which 1e6, 3e-4 and nan are numbers; plain YAML 1.1 reads them as text."""

from __future__ import annotations

import re
from typing import Any

import yaml

EXPONENT = re.compile(r"^[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+$")
NOT_FINITE = re.compile(r"^[-+]?(nan|inf|infinity)$", re.IGNORECASE)
FLOAT = "tag:yaml.org,2002:float"
MERGE = "tag:yaml.org,2002:merge"


class SettingsLoader(yaml.SafeLoader):
    """Reads settings. Two things that YAML takes are errors: a key that stands twice in a mapping, and `{size:3}`."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read a mapping as it is written: later, merged keys (`<<`) would look like repeated ones."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                name, colon, rest = key.value.partition(":")
                if colon and key.style is None and value.start_mark.index == key.end_mark.index:  # no value is written
                    text = f"expected a space after the colon, as in {{{name}: {rest}}}, got {{{key.value}}}"
                    raise yaml.composer.ComposerError(None, None, text, key.start_mark)
                if key.value in seen:
                    raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return node


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
        raise ValueError(" ".join(str(error).replace('in "<unicode string>", ', "in ").split())) from None


def dump(values: Any) -> str:
    """Return plain values as YAML that `load`, and every other YAML reader, reads exactly."""
    return yaml.dump(values, Dumper=SettingsDumper, sort_keys=False)
