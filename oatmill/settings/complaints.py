"""One-line error messages for settings: the path, the requirement, the value, and the nearest valid name."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from oatmill.settings.aliases import NOTES, advice_for

MISSPELLED = 0.95
"""A whole path of at least this similarity is a misspelling, whatever the word means in other libraries."""
NEAR = 0.65
"""Two words of at least this similarity are near; that is how difflib counts, from 0 to 1."""
WITH_UNIT = re.compile(r"^[+-]?\.?\d.*[a-zA-Z%]$")
"""A number with a unit, such as `10s`, `1.5 GB` or `2k`."""
LONGEST_VALUE = 80
"""The number of characters of a rejected value that are shown."""


def describe_error(model: type[BaseModel], error: ValidationError, prefix: str = "") -> str:
    """Return the first error of a validation as one line.

    Args:
        model: the settings class that was validated.
        error: pydantic's error.
        prefix: the path of `model` within a run's settings, such as `trainer.losses.cmpo`.
    """
    first = error.errors(include_url=False)[0]
    place = locate(model, first["loc"], prefix)
    match first["type"]:
        case "extra_forbidden" | "no_such_attribute":
            kind = str(first["loc"][1]) if len(first["loc"]) > 1 else kind_of(model) if "kind" in model.model_fields else ""
            return of_another_kind(model, place.path, kind) or unknown_setting(
                place.path, leaf_paths(model, prefix, first["loc"])
            )
        case "missing":
            return f"{place.path} must be set; it has no default"
        case "value_error":
            return _own_message(place, first["ctx"]["error"])
        case "union_tag_not_found" | "union_tag_invalid":
            tag = first["ctx"].get("tag")
            return f"{place.path}.kind must be one of {', '.join(_kinds(place))}, got {show(tag) if tag else 'nothing'}"
        case "model_type" | "model_attributes_type":
            return group_takes_no_value(place.path, leaf_paths(model, prefix, first["loc"]), first["input"])
        case _:
            return (
                f"{place.path} must be {requirement(place)}, got {show(first['input'])}{_without_unit(place, first['input'])}"
            )


def unknown_setting(path: str, known: Sequence[str]) -> str:
    """Message for an unknown setting: what it misspells, what another library's name is called here, or a near name."""
    candidate = nearest(path, known)
    near = f"the nearest is {candidate}" if is_near(path, candidate) else ""
    misspelled = "." in path and SequenceMatcher(None, path, candidate).ratio() >= MISSPELLED
    advice = near if near and misspelled else advice_for(path, known) or near
    return f"{path} is not a setting; {advice or '`oatmill settings WORD` searches all settings'}"


def of_another_kind(model: type[BaseModel], path: str, kind: str) -> str:
    """Message for a setting that only other kinds of its group have; empty if no other kind has it.

    Args:
        model: the outermost settings class, or that of the group.
        path: the dotted path, such as `env.game`.
        kind: the kind of its group.
    """
    group, _, name = path.partition(".")
    members = settings_classes(model.model_fields[group].annotation) if group in model.model_fields else siblings(model)
    kinds = [kind_of(member) for member in members if path in leaf_paths(member, group)] if len(members) > 1 else []
    if not kinds or kind in kinds or kind not in map(kind_of, members):
        return ""
    advice = NOTES.get(
        name, f"set {group}.kind, too, or leave it out (`oatmill settings {group}` lists the settings of each kind)"
    )
    return f"{path} is a setting of {group}.kind={', '.join(kinds)}, and {group}.kind is {kind} here; {advice}"


def siblings(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The settings classes of all kinds, if a class is one of a kind; otherwise none."""
    if "kind" not in model.model_fields:
        return []
    found: list[type[BaseModel]] = [model.__mro__[model.__mro__.index(BaseModel) - 1]]
    for one in found:
        found += one.__subclasses__()
    return [one for one in found if "kind" in one.model_fields]


def is_near(name: str, candidate: str) -> bool:
    """Whether one name is likely to stand for another: its last word is similar, or a part of the other's."""
    one, other = (text.rpartition(".")[2] for text in (name, candidate))
    similar = SequenceMatcher(None, one, other).ratio() >= NEAR
    return similar or one in other.split("_") or name.startswith(f"{candidate}.")


def group_takes_no_value(path: str, known: Sequence[str], value: object) -> str:
    """Return a message for a value that was given to a group of settings, with an example from the group."""
    inside = next((name for name in known if name.startswith(f"{path}.")), path)
    return f"{path} is a group of settings, such as {inside}, and takes no value itself, got {show(value)}"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the known name that is most similar to `name`.

    Names with the same first word are preferred, then those with a similar last word.
    """
    last, root = name.rpartition(".")[2], f"{name.partition('.')[0]}."
    known = [candidate for candidate in known if candidate.startswith(root)] or known

    def likeness(candidate: str) -> tuple[float, float]:
        whole = SequenceMatcher(None, name, candidate).ratio()
        word = SequenceMatcher(None, last, candidate.rpartition(".")[2]).ratio()
        return whole + word, whole

    return max(known, key=likeness)


@dataclass(frozen=True)
class SettingPlace:
    """A position in the settings.

    Attributes:
        path: the dotted path, as a user types it.
        annotation: the expected type.
        bounds: pydantic's constraints on the value.
        meaning: the description of the setting.
    """

    path: str
    annotation: Any
    bounds: Sequence[Any] = ()
    meaning: str = ""


def locate(model: type[BaseModel], loc: Sequence[int | str], prefix: str = "") -> SettingPlace:
    """Convert pydantic's location to a place. Tags of unions are not part of a path and are left out."""
    place = SettingPlace(prefix, model)
    for step in loc:
        place = _step(place, step)
    return place


def leaf_paths(model: type[BaseModel], prefix: str = "", loc: Sequence[int | str] = ()) -> list[str]:
    """Return the paths of all settings that take a value.

    Args:
        model: the outermost settings class.
        prefix: text before every path.
        loc: pydantic's location; of a union in it, only the chosen member is listed.
    """
    paths: list[str] = []
    for name, field in model.model_fields.items():
        path = f"{prefix}.{name}" if prefix else name
        members = settings_classes(field.annotation)
        if loc[:1] == (name,) and len(loc) > 1 and len(members) > 1:
            members = [member for member in members if kind_of(member) == loc[1]] or members
            inner = loc[2:]
        else:
            inner = loc[1:] if loc[:1] == (name,) else ()
        paths += [path] if not members else [leaf for member in members for leaf in leaf_paths(member, path, inner)]
    return list(dict.fromkeys(paths))


def takes_text(model: type[BaseModel], path: str) -> bool:
    """Whether a dotted path names a setting that takes any text, in at least one member of each union."""
    models, annotations = [model], []
    for name in path.split("."):
        annotations = [member.model_fields[name].annotation for member in models if name in member.model_fields]
        models = [member for annotation in annotations for member in settings_classes(annotation)]
    return any(_without_none(annotation)[0] is str for annotation in annotations)


def kind_of(member: type[BaseModel]) -> str:
    """Return the `kind` that selects this member of a union."""
    return str(member.model_fields["kind"].default)


def refuse_bool_for_a_number(model: type[BaseModel], name: str, value: bool) -> None:  # noqa: FBT001
    """Raise ValueError if a field takes a number."""
    place = locate(model, (name,))
    if {int, float}.intersection(map(_bare, _alternatives(place.annotation))):
        raise ValueError(f"{name} must be {requirement(place)}, got {show(value)}")


def requirement(place: SettingPlace) -> str:
    """Describe what a place accepts, such as `a finite number above 0`."""
    annotation, optional = _without_none(place.annotation)
    words = _words(annotation, place.bounds)
    return f"{words}, or null" if optional else words


def show(value: object) -> str:
    """Return a value as a user would write it, shortened if it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _step(place: SettingPlace, step: int | str) -> SettingPlace:
    if isinstance(step, int):
        element = get_args(place.annotation)[0] if get_args(place.annotation) else Any
        return SettingPlace(f"{place.path}[{step}]", _bare(element), _bounds(element))
    members = settings_classes(place.annotation)
    if not members and len(_alternatives(place.annotation)) > 1:
        return place  # pydantic's name of one of the alternatives
    if len(members) > 1:
        return SettingPlace(place.path, next((member for member in members if kind_of(member) == step), Any))
    path = f"{place.path}.{step}" if place.path else step
    field = members[0].model_fields.get(step) if members else None
    return SettingPlace(path, field.annotation, field.metadata, field.description or "") if field else SettingPlace(path, Any)


def _without_unit(place: SettingPlace, value: object) -> str:
    """The end of a message for a number with a unit, such as `10s`: it must have none, and what the setting counts."""
    numbers = {int, float}.intersection(map(_bare, _alternatives(place.annotation)))
    if not numbers or not isinstance(value, str) or not WITH_UNIT.match(value) or not place.meaning:
        return ""
    counted = " ".join(place.meaning.split()).partition(". ")[0].rstrip(".")
    return f"; write the number alone, without a unit ({place.path.rpartition('.')[2]}: {counted})"


def _own_message(place: SettingPlace, error: ValueError) -> str:
    """Return the message of one of our own validators. A path is put before a bare field name."""
    message = str(error)
    name = message.partition(" ")[0].partition("=")[0]
    members = settings_classes(place.annotation)
    bare = any(name in member.model_fields for member in members)
    return f"{place.path}.{message}" if bare and place.path else message


def _kinds(place: SettingPlace) -> list[str]:
    return [kind_of(member) for member in settings_classes(place.annotation)]


def settings_classes(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes that a type allows; empty for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in {Union, types.UnionType}:
        return [model for member in get_args(annotation) for model in settings_classes(member)]
    return settings_classes(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else []


def _bare(annotation: Any) -> Any:
    """The type without its constraints."""
    return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def _bounds(annotation: Any) -> list[Any]:
    """The constraints of an annotated type."""
    return [bound for part in getattr(annotation, "__metadata__", ()) for bound in getattr(part, "metadata", [part])]


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union except None; the type itself if it is no union."""
    if get_origin(annotation) not in {Union, types.UnionType}:
        return [annotation]
    return [member for member in get_args(annotation) if member is not type(None)]


def _without_none(annotation: Any) -> tuple[Any, bool]:
    members = _alternatives(annotation)
    if members == [annotation]:
        return annotation, False
    return (members[0] if len(members) == 1 else annotation), len(members) < len(get_args(annotation))


def _words(annotation: Any, bounds: Sequence[Any]) -> str:
    plain: Mapping[Any, str] = {bool: "true or false", dict: "a mapping of names to values"}
    limits = {name: getattr(bound, name) for bound in bounds for name in _LIMITS if getattr(bound, name, None) is not None}
    origin = get_origin(annotation) or annotation
    if origin in {Union, types.UnionType} and not settings_classes(annotation):
        return " or ".join(_words(_bare(member), _bounds(member)) for member in _alternatives(annotation))
    if origin is Literal:
        choices = [str(choice) for choice in get_args(annotation)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if origin in {int, float}:
        return f"{'a whole number' if origin is int else 'a finite number'}{_range(limits)}"
    if origin is tuple:
        inside = get_args(annotation)[0]
        least = f" of at least {limits['min_length']} values" if "min_length" in limits else ""
        example = "[module:function]" if hasattr(inside, "__metadata__") and get_args(inside)[0] is str else "[128, 128]"
        return f"a list{least}, such as {example}"
    if origin is str:
        return _text(limits)
    return plain.get(origin, "a group of settings" if settings_classes(annotation) else "a value of another type")


_LIMITS = ("ge", "gt", "le", "lt", "min_length", "pattern")


def _text(limits: Mapping[str, Any]) -> str:
    if ":" in str(limits.get("pattern", "")):
        return "text of the form module:function"
    return "text that is not empty" if "min_length" in limits else "text"


def _range(limits: Mapping[str, Any]) -> str:
    if "ge" in limits and "le" in limits:
        return f" from {limits['ge']} to {limits['le']}"
    words = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
    parts = [f"{word} {limits[name]}" for name, word in words.items() if name in limits]
    return f" {' and '.join(parts)}" if parts else ""
