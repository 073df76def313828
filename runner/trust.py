"""Checks settings from checkpoints and run folders, which could name any code (no torch)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from oatmill.settings.flat import flatten_settings
from oatmill.trust import names_code, untrusted
from runner.settings import RunSettings

ENVIRONMENT = ("env.",)
EVERYWHERE = ("env.", "agent.", "trainer.")
"""Prefixes of settings that may name code, including environments' arguments, which may be imported."""


def check_trust(
    settings: RunSettings,
    source: Path | str,
    *,
    trust: bool,
    places: tuple[str, ...] = EVERYWHERE,
    known: Collection[str] = (),
) -> None:
    """Raise a UserError if settings would run code that the user has not named.

    Args:
        settings: settings of a checkpoint or a run folder.
        source: the checkpoint, the run folder or the run's address, for the message.
        trust: whether the user trusts the source.
        places: prefixes of the settings that will be used.
        known: texts that the user's own command names.

    Raises:
        UserError: if the settings name other code.
    """
    found = None if trust else code_named(settings, places=places, known=known)
    if found is not None:
        raise untrusted(source, *found)


def code_named(
    settings: RunSettings, *, places: tuple[str, ...] = EVERYWHERE, known: Collection[str] = ()
) -> tuple[str, str] | None:
    """The first setting that names code, and the text that names it; None if there is none. Arguments as `check_trust`."""
    return code_in(settings.to_dict(), places=places, known=known)


def code_in(
    settings: Mapping[str, Any], *, places: tuple[str, ...] = EVERYWHERE, known: Collection[str] = ()
) -> tuple[str, str] | None:
    """The same for the content of config.yaml."""
    for path, value in flatten_settings(settings).items():
        for text in texts_of(value) if path.startswith(places) else ():
            if names_code(text) and text not in known:
                return path, text
    return None


def texts_of(values: Any) -> Iterator[str]:
    """All texts in nested plain values."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from texts_of(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from texts_of(value)
