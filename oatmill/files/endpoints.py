"""Endpoint files: each role writes its addresses to a small file in the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oatmill.files.atomic import write_file
from oatmill.files.full_disk import NeededWrites

FOLDER = "endpoints"


def write_endpoint(run_dir: Path, role: str, content: Mapping[str, Any], writes: NeededWrites | None = None) -> None:
    """Write a role's endpoint file, which shows that the role is ready. Readers never see a partial file.

    Args:
        run_dir: the run's folder; it must exist.
        role: the file's name.
        content: at least `pid`, and `metrics` if the role serves them.
        writes: queues the write if the disk is full; None raises an error instead.

    Raises:
        OSError: if the file cannot be written and there are no `writes`.
    """
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)  # not its parents: a run folder that was deleted stays so
    path, text = folder / f"{role}.json", json.dumps(dict(content))
    if writes is None:
        write_file(path, text)
    else:
        writes.file(path, text)
