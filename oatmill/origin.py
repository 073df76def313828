"""Whether all of oatmill's packages are oatmill's: their names are short, and another folder may hold one of the same name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from oatmill.children.places import PACKAGES
from oatmill.errors import UserError


def check_packages() -> None:
    """Raise UserError unless oatmill's packages lie in one folder, the one that this module was loaded from."""
    ours = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        found = folder_of(name)
        if found is None:
            raise UserError(f"oatmill's package {name} is missing beside {ours / 'oatmill'}; install oatmill again")
        if found.parent != ours:
            raise UserError(
                f"another package named {name} comes first on Python's path: expected {ours / name}, got {found}; rename or "
                "leave that folder, or set PYTHONSAFEPATH=1"
            )


def folder_of(name: str) -> Path | None:
    """Where Python would load a package from, without loading it; None if nowhere."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
    return Path(places[0]).resolve() if places else None
