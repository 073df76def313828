"""Combines a recipe with presets, files, environment variables and the command line.

The layers, from lowest to highest precedence, are: recipe, preset, `--config FILE`, environment
variables (`OATMILL__TRAINER__TOTAL_TIMESTEPS=10000`), `key=value`, flags. They are merged as plain
values and checked once, so that settings that depend on each other may come from different layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oatmill.errors import SettingsError
from oatmill.settings import yaml_format
from oatmill.settings.complaints import group_takes_no_value, leaf_paths, of_another_kind, takes_text, unknown_setting
from runner.settings import RunSettings, read_mapping

ENVIRONMENT_PREFIX = "OATMILL__"
DISCOUNT_NAMES = (("trainer", "gamma"), ("trainer", "losses", "ppo_critic", "gamma"))
BATCH_SIZE = ("trainer", "batch_size")
MAPPINGS = ("env.kwargs", "agent.encoders", "trainer.coef_schedules")
"""Settings with names that the user defines."""

Values = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """Settings from one source.

    Attributes:
        values: nested values by name.
        source: the file or environment variable, for messages; empty for the command line.
        users: whether the user has chosen each value; a preset's are defaults, like a recipe's.
    """

    values: Values
    source: str = ""
    users: bool = True


def resolve(base: Mapping[str, Any], layers: Sequence[Layer]) -> RunSettings:
    """Merge layers and check the result; later layers take precedence.

    Args:
        base: a recipe's settings, or empty if a layer has everything.
        layers: the layers, from lowest to highest precedence.

    Raises:
        SettingsError: one line that names the setting and its source, what was expected, what came, and
            for unknown settings the nearest name.
    """
    values: Values = dict(base)
    sources: dict[str, str] = {}
    for layer in layers:
        values = merged(values, layer.values)
        kind = values.get("env", {}).get("kind", "") if isinstance(values.get("env"), dict) else ""
        for path, value in leaves(layer.values):
            check_path(path, value, kind, layer.source)
            sources[path] = layer.source
    try:
        settings = RunSettings.of(values)
    except SettingsError as error:
        raise SettingsError(_with_source(str(error), sources)) from None
    if any(layer.users and _has(layer.values, BATCH_SIZE) for layer in layers):
        settings.trainer.keep_batch_size()
    return settings


def command_layers(
    *,
    preset: Mapping[str, Any],
    config: Path | None,
    environ: Mapping[str, str],
    assignments: Iterable[str],
    flags: Mapping[str, Any],
) -> list[Layer]:
    """The layers of one command, from lowest to highest precedence.

    Args:
        preset: the preset's settings.
        config: a YAML file of settings.
        environ: the environment variables.
        assignments: `key=value` from the command line.
        flags: values by dotted path; None for a flag that was not given.

    Raises:
        SettingsError: if a file, a variable or an assignment cannot be parsed.
    """
    given = {path: value for path, value in flags.items() if value is not None}
    return [
        Layer(dict(preset), users=False),
        *([Layer(read_mapping(config), str(config))] if config else []),
        *environment_layers(environ),
        Layer(nested(parse_assignment(text) for text in assignments)),
        Layer(nested(given.items())),
    ]


def environment_layers(environ: Mapping[str, str]) -> list[Layer]:
    """One layer per variable such as `OATMILL__TRAINER__GAMMA=0.9`; two underscores are a dot."""
    layers = []
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT_PREFIX):
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            layers.append(Layer(nested([(path, _value(name, path, environ[name]))]), name))
    return layers


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split `key=value` into a dotted path and a YAML value.

    For a setting of type text, the value may also be text that is not YAML, such as `metrics.host=::`.

    Raises:
        SettingsError: if there is no `=`, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise SettingsError(
            f"expected key=value without spaces around the =, such as trainer.total_timesteps=10000, got {text!r}"
        )
    return path.strip(), _value(path.strip(), path.strip(), value)


def nested(items: Iterable[tuple[str, Any]]) -> Values:
    """Convert dotted paths to nested values; if a path comes twice, the last value counts."""
    values: Values = {}
    for path, value in items:
        for name in reversed(path.split(".")):
            value = {name: value}  # noqa: PLW2901
        values = _merge(values, value)
    return values


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """Merge nested values; those of `above` replace those of `below`.

    If `above` has another `env.kind`, it replaces all of `env`. If `above` sets one of the two
    names of the discount, the other name is removed from `below`.
    """
    values = _merge(_without_other_discount(below, above), above)
    kinds = [side.get("env", {}).get("kind") for side in (below, above) if isinstance(side.get("env", {}), dict)]
    if len(kinds) == 2 and None not in kinds and kinds[0] != kinds[1]:  # noqa: PLR2004
        values["env"] = dict(above["env"])
    return values


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """All dotted paths with their values."""
    for name, value in values.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, dict) and value and path not in MAPPINGS:
            yield from leaves(value, path)
        else:
            yield path, value


def check_path(path: str, value: Any, kind: str, source: str = "") -> None:
    """Raise a SettingsError unless `path` is a setting, and not a group of settings.

    Args:
        path: the dotted path.
        value: the assigned value.
        kind: the kind of environment, which determines the settings of `env`.
        source: the source of the assignment, for messages.
    """
    known = leaf_paths(RunSettings, loc=("env", kind))
    if path in known or value == {}:
        return
    start = f"{source}: " if source else ""
    if any(name.startswith(f"{path}.") for name in known):
        raise SettingsError(start + group_takes_no_value(path, known, value))
    raise SettingsError(start + (of_another_kind(RunSettings, path, kind) or unknown_setting(path, known)))


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    values = dict(below)
    for name, value in above.items():
        inner = values.get(name)
        values[name] = _merge(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return values


def _without_other_discount(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    values = dict(below)
    for mine, other in (DISCOUNT_NAMES, DISCOUNT_NAMES[::-1]):
        if _has(above, mine) and not _has(above, other):
            values = _without(values, other)
    return values


def _has(values: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return values is not None


def _without(values: Mapping[str, Any], path: Sequence[str]) -> Values:
    name, *rest = path
    if not isinstance(values.get(name), dict):
        return {key: value for key, value in values.items() if rest or key != name}
    return {**values, name: _without(values[name], rest)}


def _value(name: str, path: str, text: str) -> Any:
    if takes_text(RunSettings, path):
        return _text(text)
    try:
        return yaml_format.load(text)
    except ValueError as error:
        raise SettingsError(f"{name} must be a YAML value, such as 0.01, true or [128, 128], got {text!r}: {error}") from None


def _text(text: str) -> str | None:
    """The value of a setting of type text: YAML text or null, otherwise the text as typed."""
    try:
        value = yaml_format.load(text)
    except ValueError:
        return text
    return value if isinstance(value, str | None) else text.strip()


def _with_source(message: str, sources: Mapping[str, str]) -> str:
    source = sources.get(message.partition(" ")[0].partition("[")[0], "")
    return f"{source}: {message}" if source else message
