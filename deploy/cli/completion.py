"""What the shell offers after Tab: recipes, settings with their defaults, and the values of a setting that has few."""

from __future__ import annotations


def complete_recipe(incomplete: str) -> list[str]:
    """The built-in recipes that begin so."""
    from recipes.registry import BUILT_IN  # noqa: PLC0415

    return [name for name in BUILT_IN if name.startswith(incomplete)]


def complete_path(incomplete: str) -> list[str]:
    """The settings whose path begins so."""
    from runner.settings_reference import all_settings  # noqa: PLC0415

    return list(dict.fromkeys(entry.path for entry in all_settings() if entry.path.startswith(incomplete)))


def complete_assignment(incomplete: str) -> list[str]:
    """Settings that begin so as `key=default`, to be edited; after the `=`, the values of a setting that has few."""
    from runner.settings_reference import all_settings  # noqa: PLC0415

    path, equals, typed = incomplete.partition("=")
    if not equals:
        entries = [entry for entry in all_settings() if entry.path.startswith(incomplete)]
        return list(dict.fromkeys(f"{entry.path}={'' if entry.default == 'required' else entry.default}" for entry in entries))
    choices = [choice for entry in all_settings() if entry.path == path for choice in choices_of(entry.takes)]
    return [f"{path}={choice}" for choice in dict.fromkeys(choices) if choice.startswith(typed)]


def choices_of(takes: str) -> list[str]:
    """The values of a setting that takes one of a few, from its description in words."""
    if takes.startswith("true or false"):
        return ["true", "false"]
    return takes.removeprefix("one of ").split(", ") if takes.startswith("one of ") else []
