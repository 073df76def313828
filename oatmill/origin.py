"""Checks that Python finds oatmill's own packages.

Their names are short, so a user's file may have the same name.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from oatmill.errors import UserError
from oatmill.user_code import PACKAGES


def check_packages() -> None:
    """Check that Python finds each of oatmill's packages in the folder of this package.

    Raises:
        UserError: names the first package that is missing, or the file or folder that Python finds
            in its place.
    """
    ours = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        found = folder_of(name)
        if found is None:
            raise UserError(f"oatmill's package {name} is missing next to {ours / 'oatmill'}; install oatmill again")
        if found.parent != ours:
            raise UserError(
                f"oatmill needs the name `{name}` for its own package, but Python finds {found} first; rename that "
                f"{'file' if found.is_file() else 'folder'}, or set PYTHONSAFEPATH=1"
            )


def folder_of(name: str) -> Path | None:
    """Return the file or folder of a package, without loading it; None if Python finds none."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
    return Path(places[0]).resolve() if places else None
