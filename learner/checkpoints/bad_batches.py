"""Batches that gave a loss or a gradient that is not finite, kept for a look (no torch).

A file holds one rank's part of a batch, as `numpy.load(path, allow_pickle=False)` reads it.
"""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

import numpy as np

from oatmill.files.atomic import replacing
from protocol.data.batch import Batch
from protocol.data.trajectory import Array

log = logging.getLogger("oatmill.learner")

FOLDER = Path("quarantine") / "batches"
MAX_FILES = 8
MAX_BYTES = 256 * 2**20


def keep_batch(run_dir: Path, batch: Batch, *, rank: int, world_size: int) -> Path | None:
    """Write a batch to `RUN_DIR/quarantine/batches`. The first few are kept and no more: a run may meet a million.

    Args:
        run_dir: the run's folder.
        batch: this rank's part.
        rank: this rank; each has an equal share of the room.
        world_size: the number of ranks.

    Returns:
        The file; None if there is no room for it any more, or on the disk.
    """
    folder = run_dir / FOLDER
    path = folder / f"step-{batch.learner_step + 1}-rank-{rank}.npz"
    arrays: dict[str, Array] = {
        field.name: value for field in fields(batch) if isinstance(value := getattr(batch, field.name), np.ndarray)
    }
    kept = [file.stat().st_size for file in folder.glob(f"*-rank-{rank}.npz")]
    if len(kept) >= MAX_FILES or sum(kept) + sum(array.nbytes for array in arrays.values()) > MAX_BYTES / world_size:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as working, working.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        log.warning("a batch that is not finite could not be kept at %s: %s", path, error.strerror)
        return None
    return path
