"""Chooses how progress is shown: a live view on a terminal, plain lines otherwise."""

from __future__ import annotations

import os
from typing import TextIO

from runner.observer import Observer, PlainObserver


def observer_for(output: TextIO) -> Observer:
    """A live view if `output` is a terminal that supports it, otherwise plain lines."""
    if output.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from deploy.cli.live import LiveObserver  # noqa: PLC0415  (loads rich)

        return LiveObserver(output)
    return PlainObserver(output)
