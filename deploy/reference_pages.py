"""Writes the reference pages of the settings and the commands: `python -m deploy.reference_pages`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from typer.main import get_command

from deploy.cli.app import app
from deploy.cli.examples import EXAMPLES
from runner.settings_reference import SettingEntry, all_settings

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
GENERATED = "<!-- Written by `python -m deploy.reference_pages`. Do not edit. -->\n\n"


def pages() -> dict[str, str]:
    """The content of each page by file name."""
    return {"settings.md": GENERATED + settings_page(all_settings()), "commands.md": GENERATED + commands_page()}


def settings_page(entries: Iterable[SettingEntry]) -> str:
    """A section per group of settings, with an entry per setting."""
    parts = [
        "# Settings",
        "",
        "All settings of a run. Set them with `key=value` on the command line, in a YAML file for `--config`, or with",
        "environment variables such as `OATMILL__TRAINER__GAMMA=0.98`. `oatmill settings WORD` searches this list.",
        "",
    ]
    for (group, kind), members in groupby(entries, key=lambda entry: (entry.group, entry.kind)):
        only = f" (kind: {kind})" if kind else ""
        parts += [f"## {group}{only}", ""]
        for entry in members:
            default = "required" if entry.default == "required" else f"default `{entry.default or '(empty)'}`"
            takes = "" if entry.takes == entry.default else f"; {entry.takes}"
            parts += [f"**`{entry.path}`** — {default}{takes}.", "", entry.meaning, ""]
    return "\n".join(parts)


def commands_page() -> str:
    """A section per command with its usage, arguments and options."""
    parts = ["# Commands", "", "`oatmill COMMAND --help` shows the same in a terminal.", ""]
    for name, command in _commands(get_command(app), "oatmill"):
        usage = " ".join([name, *(_metavar(parameter) for parameter in _arguments(command)), "[OPTIONS]"])
        parts += [f"## {name}", "", command.help.strip() if command.help else "", "", "```", usage, "```", ""]
        rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            parts += ["| Option | Description |", "|---|---|", *rows, ""]
        examples = EXAMPLES.get(name.removeprefix("oatmill "), ())
        if examples:
            parts += ["```sh", *examples, "```", ""]
    return "\n".join(parts)


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for inner, below in command.commands.items():
        yield from _commands(below, f"{name} {inner}")


def _arguments(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "argument"]


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        shown = _metavar(parameter)
    else:
        shown = ", ".join(parameter.opts) + ("" if parameter.is_flag else f" {_metavar(parameter)}")
    text = (getattr(parameter, "help", "") or "").replace("|", "\\|")
    variable = f" Environment variable: `{parameter.envvar}`." if parameter.envvar else ""
    return f"| `{shown}` | {text}{variable} |"


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in pages().items():
        (FOLDER / name).write_text(content)


if __name__ == "__main__":
    main()
