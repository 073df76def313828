"""A learner that was ended and goes on in a new process is, to the bit, the one that was never interrupted."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.checkpoint_manifest import MANIFEST
from tests.learner.checkpoints.resume_process import CASES, SAVED_AT, STEPS, train
from tests.learner.child import output_of
from tests.learner.worlds import make_batch, make_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `whole` holds runs that were not interrupted, and `resumed` ones that went on from their first checkpoint."""
    folder = tmp_path_factory.mktemp("resume")
    batches = folder / "batches"
    batches.mkdir()
    for case, (_, _, settings) in CASES.items():
        for step in range(1, STEPS + 1):
            batch = make_batch(make_spec(**settings), seed=step, absent=True)
            arrays = {f.name: value for f in fields(batch) if isinstance(value := getattr(batch, f.name), np.ndarray)}
            np.savez(batches / f"{case}-{step}.npz", allow_pickle=False, **arrays)
        train(folder / "whole" / case, batches, case, resume=False)
        first = Path("checkpoints") / f"step-{SAVED_AT}"
        shutil.copytree(folder / "whole" / case / first, folder / "resumed" / case / first)
    output_of("tests.learner.checkpoints.resume_process", str(folder / "resumed"), str(batches), *CASES)
    return folder


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text())
    return manifest


@pytest.mark.parametrize("case", CASES)
def test_the_last_checkpoints_are_the_same_to_the_bit(folder: Path, case: str) -> None:
    whole, resumed = (folder / which / case / "checkpoints" / f"step-{STEPS}" for which in ("whole", "resumed"))
    # The manifest holds the hashes of networks, prior, optimiser and random numbers, the normaliser, the coefficients' scales,
    # and what the red flags remember.
    assert manifest_of(whole) == manifest_of(resumed)
    assert manifest_of(whole) != manifest_of(whole.parent / f"step-{SAVED_AT}")
    for file in sorted(path.name for path in whole.iterdir()):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes(), file


@pytest.mark.parametrize("case", CASES)
def test_the_lines_of_the_resumed_part_are_the_same(folder: Path, case: str) -> None:
    found = []
    for which in ("whole", "resumed"):
        lines = [json.loads(line) for line in (folder / which / case / "metrics.jsonl").read_text().splitlines()]
        # The pace and the ages of trajectories are windows over what this process has seen.
        for line in lines:
            del line["env_steps_per_second"]
        found.append(lines[-(STEPS - SAVED_AT) :])
    assert found[0] == found[1]


def test_the_cases_exercise_what_is_saved(folder: Path) -> None:
    manifest = manifest_of(folder / "whole" / "full" / "checkpoints" / f"step-{STEPS}")
    assert set(manifest["coefficient_scales"].values()) != {1.0}
    assert len(manifest["learner_state"]["recorder"]["flags"]["window"]) == STEPS
    assert manifest["normaliser"]["weight"] > 0
    assert 0 < manifest["gradients_measured_at"] < manifest["updates"]
