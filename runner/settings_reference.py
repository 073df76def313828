"""Lists every setting with its default, type and description, from the settings classes (no torch)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from oatmill.settings.aliases import ALIASES, NOTES
from oatmill.settings.complaints import SettingPlace, kind_of, requirement, settings_classes, show
from runner.settings import RunSettings

SHORT = 3
"""A word of so many letters is found only at the start of another one."""


@dataclass(frozen=True)
class SettingEntry:
    """One setting.

    Attributes:
        path: the dotted path, such as `trainer.losses.cmpo.kl_coef`.
        kind: the `env.kind` that has this setting; empty outside of `env`.
        default: the default as a user would type it; `required` if there is none.
        takes: the type and the bounds in words.
        meaning: the description.
    """

    path: str
    kind: str
    default: str
    takes: str
    meaning: str

    @property
    def group(self) -> str:
        """The path of the group: everything before the last dot."""
        return self.path.rpartition(".")[0]


def all_settings() -> list[SettingEntry]:
    """Every setting, in the order of the settings classes."""
    return list(_entries(RunSettings, "", ""))


def find_settings(word: str) -> list[SettingEntry]:
    """The settings whose path or description contains a word, or that another library calls so, ignoring case.

    An empty word finds all of them.
    """
    wanted = " ".join(word.lower().split())
    ranks = {entry: rank for entry in all_settings() if (rank := _rank(entry, wanted)) is not None}
    return sorted(ranks, key=lambda entry: ranks[entry])


def _rank(entry: SettingEntry, word: str) -> int | None:
    """Where a setting belongs among those that a word finds; None if it does not find it."""
    if word and (ALIASES.get(word) == entry.path or entry.path in NOTES.get(word, "").replace("=", " ").split()):
        return 0
    # A short word is part of too many others: eps of steps.
    begins = "(?<![a-z])" if len(word) <= SHORT else ""
    texts = (entry.path, entry.meaning)
    return next((rank for rank, text in enumerate(texts, 1) if re.search(begins + re.escape(word), text.lower())), None)


def _entries(model: type[BaseModel], prefix: str, kind: str) -> Iterator[SettingEntry]:
    for name, field in model.model_fields.items():
        path = f"{prefix}.{name}" if prefix else name
        members = settings_classes(field.annotation)
        if not members:
            takes = requirement(SettingPlace(path, field.annotation, field.metadata))
            yield SettingEntry(path, kind, _default(field), takes, field.description or "")
        for member in members:
            yield from _entries(member, path, kind_of(member) if len(members) > 1 else kind)


def _default(field: FieldInfo) -> str:
    if field.default_factory is None and field.default is PydanticUndefined:
        return "required"
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, tuple):
        value = list(value)
    return value if isinstance(value, str) else show(value)
