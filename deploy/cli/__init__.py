"""The command `oatmill`, one file a subcommand."""

from __future__ import annotations

from deploy.cli.entry import main

__all__ = ["main"]
