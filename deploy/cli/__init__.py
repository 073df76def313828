"""The command `oatmill`, with one file per subcommand."""

from __future__ import annotations

from deploy.cli.entry import main

__all__ = ["main"]
