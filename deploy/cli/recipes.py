"""`oatmill recipes`."""

from __future__ import annotations

import typer


def recipes() -> None:
    """List the built-in recipes, one line each."""
    from recipes.registry import BUILT_IN  # noqa: PLC0415

    width = max(map(len, BUILT_IN))
    for recipe in BUILT_IN.values():
        typer.echo(f"{recipe.name:<{width}}  {recipe.summary}")
