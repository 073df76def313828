"""From a recipe and everything that changes it to one run's settings.

Layers are merged as plain values and checked once, together, so that no order of assignments is refused half-way:
recipe < preset < `--config FILE` < environment (`OATMILL__TRAINER__TOTAL_TIMESTEPS=10000`) < `key=value` < flags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oatmill.errors import SettingsError
from oatmill.settings import yaml_format
from oatmill.settings.complaints import group_takes_no_value, leaf_paths, takes_text, unknown_setting
from runner.settings import RunSettings, read_mapping

ENVIRONMENT_PREFIX = "OATMILL__"
DISCOUNT_NAMES = (("trainer", "gamma"), ("trainer", "losses", "ppo_critic", "gamma"))
MAPPINGS = ("env.kwargs", "agent.encoders")
"""Settings that hold names of the user's own."""

Values = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """Some settings and where they come from.

    Attributes:
        values: nested, by name.
        source: a file or a variable that a message should name; empty for what was typed on the command line.
    """

    values: Values
    source: str = ""


def resolve(base: Mapping[str, Any], layers: Sequence[Layer]) -> RunSettings:
    """Put layers on top of each other, the last one wins, and check the whole.

    Args:
        base: a recipe's settings, or empty where a layer brings everything.
        layers: in the order of their precedence, the weakest first.

    Raises:
        SettingsError: one line that names the setting and its source, what is required, what came, and the nearest name.
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
        return RunSettings.of(values)
    except SettingsError as error:
        raise SettingsError(_with_source(str(error), sources)) from None


def command_layers(
    *,
    preset: Mapping[str, Any],
    config: Path | None,
    environ: Mapping[str, str],
    assignments: Iterable[str],
    flags: Mapping[str, Any],
) -> list[Layer]:
    """The layers that one command puts on its recipe, the weakest first.

    Args:
        preset: what a preset sets.
        config: a YAML file of settings.
        environ: the process's environment.
        assignments: `key=value` as typed.
        flags: values by dotted path; None stands for a flag that was not given.

    Raises:
        SettingsError: if a file, a variable or an assignment cannot be read.
    """
    given = {path: value for path, value in flags.items() if value is not None}
    return [
        Layer(dict(preset)),
        *([Layer(read_mapping(config), str(config))] if config else []),
        *environment_layers(environ),
        Layer(nested(parse_assignment(text) for text in assignments)),
        Layer(nested(given.items())),
    ]


def environment_layers(environ: Mapping[str, str]) -> list[Layer]:
    """A layer for each variable such as `OATMILL__TRAINER__GAMMA=0.9`: two underscores for a dot, and for the start."""
    layers = []
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT_PREFIX):
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            layers.append(Layer(nested([(path, _value(name, path, environ[name]))]), name))
    return layers


def parse_assignment(text: str) -> tuple[str, Any]:
    """`key=value` as a dotted path and a YAML value. A setting that takes text takes what was typed (`metrics.host=::`).

    Raises:
        SettingsError: if it has no `=`, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise SettingsError(f"expected key=value, such as trainer.total_timesteps=10000, got {text!r}")
    return path.strip(), _value(path.strip(), path.strip(), value)


def nested(items: Iterable[tuple[str, Any]]) -> Values:
    """Dotted paths as nested values; of a path that comes twice the last value counts."""
    values: Values = {}
    for path, value in items:
        for name in reversed(path.split(".")):
            value = {name: value}  # noqa: PLW2901
        values = _merge(values, value)
    return values


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    """Nested values with those of `above` in the place of those of `below`.

    Another kind of environment starts anew instead of keeping what the first kind was given, and whichever of the two names
    of the discount comes later is the one that counts.
    """
    values = _merge(_without_other_discount(below, above), above)
    kinds = [side.get("env", {}).get("kind") for side in (below, above) if isinstance(side.get("env", {}), dict)]
    if len(kinds) == 2 and None not in kinds and kinds[0] != kinds[1]:  # noqa: PLR2004
        values["env"] = dict(above["env"])
    return values


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """All paths that have a value, with the value."""
    for name, value in values.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, dict) and value and path not in MAPPINGS:
            yield from leaves(value, path)
        else:
            yield path, value


def check_path(path: str, value: Any, kind: str, source: str = "") -> None:
    """Raise SettingsError unless `path` names a setting that takes a value.

    Args:
        path: dotted.
        value: what is assigned to it.
        kind: the kind of environment, which decides what `env` has.
        source: where the assignment comes from.
    """
    known = leaf_paths(RunSettings, loc=("env", kind))
    if path in known or value == {}:
        return
    start = f"{source}: " if source else ""
    if any(name.startswith(f"{path}.") for name in known):
        raise SettingsError(start + group_takes_no_value(path, known, value))
    raise SettingsError(start + unknown_setting(path, known))


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
    """What a setting that takes text is given: YAML's text or null, or else the text as it was typed, such as `::` or `1`."""
    try:
        value = yaml_format.load(text)
    except ValueError:
        return text
    return value if isinstance(value, str | None) else text.strip()


def _with_source(message: str, sources: Mapping[str, str]) -> str:
    source = sources.get(message.partition(" ")[0].partition("[")[0], "")
    return f"{source}: {message}" if source else message
