"""Importing what a user wrote: modules beside which the command was started are found too, after all that is installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType


def import_own(name: str) -> ModuleType:
    """Import a module that is installed, or lies in the current folder.

    The current folder comes last, so that nothing in it takes the place of an installed package.

    Raises:
        ImportError: as `import` does.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)
