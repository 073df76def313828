"""The environment variables of a child process."""

from __future__ import annotations

import os
import site
from collections.abc import Mapping
from pathlib import Path

PACKAGES_FOLDER = str(Path(__file__).resolve().parents[2])


def child_environment(environ: Mapping[str, str], threads: int) -> dict[str, str]:
    """Return a child's environment variables: it finds oatmill's own packages first, and uses few threads."""
    limit = str(threads)
    changes = {
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": limit,
        "OPENBLAS_NUM_THREADS": limit,
        "MKL_NUM_THREADS": limit,
        # Threads that wait for each other sleep: if they spun, they would take the cores that actors need.
        "OMP_WAIT_POLICY": environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }
    if PACKAGES_FOLDER not in {*site.getsitepackages(), site.getusersitepackages()}:
        changes["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGES_FOLDER, environ.get("PYTHONPATH", "")]))
    return {**environ, **changes}
