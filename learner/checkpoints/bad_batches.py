"""Keeps batches with a loss or gradient that was not finite, for debugging (no torch).

A file contains one rank's part of a batch, for `numpy.load(path, allow_pickle=False)`.
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
    """Write a batch to `RUN_DIR/quarantine/batches`. Only the first few are kept.

    Args:
        run_dir: the run's folder.
        batch: this rank's part of the batch.
        rank: this rank; all ranks have an equal share of the space.
        world_size: the number of ranks.

    Returns:
        The file; None if its share of the space or the disk is full.
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
        for new in (folder.parent, folder):  # not the run folder: if it was deleted, it stays so
            new.mkdir(exist_ok=True)
        with replacing(path) as working, working.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        log.warning("a batch that is not finite could not be kept at %s: %s", path, error.strerror)
        return None
    return path
