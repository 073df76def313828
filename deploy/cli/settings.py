"""`oatmill settings`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.completion import complete_path
from deploy.cli.options import JsonOption, print_json

if TYPE_CHECKING:
    from runner.settings_reference import SettingEntry


def settings(
    *,
    word: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]", help="What to search in paths and descriptions.", autocompletion=complete_path),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List or search the settings.

    Each setting is shown with its default, its type and its description. Set it with KEY=VALUE, for
    example `oatmill train cartpole trainer.gamma=0.98`.
    """
    from oatmill.errors import UserError  # noqa: PLC0415
    from oatmill.settings.complaints import unknown_setting  # noqa: PLC0415
    from runner.settings_reference import all_settings, find_settings  # noqa: PLC0415

    searched = " ".join(word or ())
    found = find_settings(searched)
    if not found:
        raise UserError(unknown_setting(searched, [entry.path for entry in all_settings()]))
    if as_json:
        print_json([asdict(entry) for entry in found])
        return
    for entry in found:
        typer.echo("\n".join(setting_lines(entry)))


def setting_lines(entry: SettingEntry) -> list[str]:
    """The text for one setting."""
    only = f"  (env.kind={entry.kind})" if entry.kind else ""
    default = "required" if entry.default == "required" else f"default {entry.default}"
    return [f"{entry.path}{only}", f"    {default}; takes {entry.takes}", f"    {entry.meaning}", ""]
