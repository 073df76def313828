"""The manifest of a checkpoint: damage to it, or to a file that it names, is noticed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.checkpoint_manifest import MANIFEST, MODEL_FILE, open_manifest, read_manifest, write_manifest
from oatmill.errors import UserError

OTHER_FILE = "optimizer.safetensors"
ENTRIES = {"agent": {"hidden_sizes": [64, 64]}, "learner_step": 1, "env_steps": 42, "policy_version": 4}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    for name in (MODEL_FILE, OTHER_FILE):
        (tmp_path / name).write_bytes(random.Random(1).randbytes(200))
    write_manifest(tmp_path, ENTRIES, (MODEL_FILE, OTHER_FILE))
    return tmp_path


def flipped(content: bytes, count: int) -> Iterator[tuple[int, bytes]]:
    """The content with one bit changed, for many bits."""
    for position in random.Random(16).sample(range(8 * len(content)), count):
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        yield position, bytes(changed)


def test_a_manifest_is_read_as_it_was_written(checkpoint: Path) -> None:
    manifest = read_manifest(checkpoint)
    assert {name: manifest[name] for name in ENTRIES} == ENTRIES
    assert set(manifest["files"]) == {MODEL_FILE, OTHER_FILE}
    assert manifest["format"] == 2


def test_every_flipped_bit_of_a_manifest_is_noticed_or_changes_nothing_that_it_says(checkpoint: Path) -> None:
    path = checkpoint / MANIFEST
    content, whole = path.read_bytes(), open_manifest(checkpoint)
    noticed: list[str] = []
    for position, changed in flipped(content, 400):
        path.write_bytes(changed)
        try:
            assert open_manifest(checkpoint) == whole, f"bit {position} changed what is said"
        except UserError as error:
            noticed.append(str(error))
    assert all("is damaged: " in line for line in noticed)
    assert len(noticed) > 200


@pytest.mark.parametrize("file", [MODEL_FILE, OTHER_FILE])
def test_every_flipped_bit_of_a_file_is_noticed(checkpoint: Path, file: str) -> None:
    path = checkpoint / file
    for _, changed in flipped(path.read_bytes(), 50):
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"is damaged or missing: its hash is not the one in manifest\.json"):
            read_manifest(checkpoint)
