"""Which settings may be shown to others: no secrets, and no paths of this machine, which have the user's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oatmill.errors import SettingsError, UserError
from oatmill.settings.flat import flatten_settings
from runner.settings import RunSettings
from runner.trust import texts_of

KWARGS = "env.kwargs."
LOCAL = ("metrics.", "trainer.init_from", "trainer.teacher.policy")
"""Settings that mean nothing on another machine: addresses, ports and folders."""
SECRET_NAME = re.compile(r"token|secret|passw|passphrase|credential|auth|key|\bpin\b|cookie", re.IGNORECASE)
PRIVATE_TEXT = re.compile(r"(?:^|[\s=:,;'\"(\[])(?:/|~|[A-Za-z]:\\)")
"""A path from the root or from home, or a URL, which may have a password."""


@dataclass(frozen=True)
class PublicSettings:
    """A run's settings without what must not leave this machine.

    Attributes:
        values: nested values, as in config.yaml.
        withheld: what was left out, by dotted path; only what someone else would miss.
    """

    values: dict[str, Any]
    withheld: Mapping[str, Any]

    def texts(self) -> Iterator[str]:
        """The texts that were left out."""
        return texts_of(list(self.withheld.values()))


def public_settings(settings: RunSettings, recipe: RunSettings | None, publish: Collection[str]) -> PublicSettings:
    """Leave out arguments of the environment that may be secrets, paths, and URLs.

    Texts and suspicious names in `env.kwargs` are left out, unless a built-in recipe has the same value.

    Args:
        settings: the run's settings.
        recipe: the settings of its built-in recipe, which are public; None for another recipe.
        publish: paths of settings that the user allows to be shown.

    Raises:
        UserError: if `publish` names a setting that does not exist, or the rest is no complete settings.
    """
    flat, known = flatten_settings(settings.to_dict()), flatten_settings(recipe.to_dict()) if recipe else {}
    unknown = sorted(set(publish) - flat.keys())
    if unknown:
        raise UserError(f"--publish names settings of the run, such as env.kwargs.NAME; it has no {unknown[0]}")
    private = {path: value for path, value in flat.items() if path not in publish and is_private(path, value)}
    private = {path: value for path, value in private.items() if path not in known or known[path] != value}
    values = pruned(settings.to_dict(), lambda path: path in private or is_local(path, publish))
    try:
        public = RunSettings.of(values).to_dict()
    except SettingsError as error:
        shown = ", ".join(private)
        raise UserError(
            f"the settings are not complete without {shown} ({error}); --publish KEY allows one to be uploaded"
        ) from None
    public.pop("metrics")
    return PublicSettings(public, {path: value for path, value in private.items() if not is_local(path, publish)})


def pruned(values: Mapping[str, Any], dropped: Callable[[str], bool], prefix: str = "") -> dict[str, Any]:
    """Nested values without those whose dotted path is dropped."""
    left: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            left[name] = pruned(value, dropped, f"{prefix}{name}.")
        elif not dropped(f"{prefix}{name}"):
            left[name] = value
    return left


def is_local(path: str, publish: Collection[str]) -> bool:
    """Whether a setting is about this machine."""
    return path.startswith(LOCAL) and path not in publish


def is_private(path: str, value: Any) -> bool:
    """Whether a setting may be a secret, or names a place on this machine or the network."""
    texts = list(texts_of(value))
    if path.startswith(KWARGS) and (texts or SECRET_NAME.search(path.removeprefix(KWARGS))):
        return True
    return any(PRIVATE_TEXT.search(text) for text in texts)
