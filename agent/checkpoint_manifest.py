"""The manifest of a checkpoint: its format, how it is written, and how it is verified.

A checkpoint is a folder. Its `manifest.json` says what was trained and how far, and has the hash of every other file and a
digest of its own content. So damage is noticed before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oatmill.errors import UserError
from oatmill.files.atomic import sync_path
from oatmill.files.run_files import CONFIG_FILE
from oatmill.json_values import canonical_json

MANIFEST = "manifest.json"
MODEL_FILE = "model.safetensors"
LATEST, BEST, PLAYING = "latest", "best", "playing"
"""Links to a run's newest checkpoint, to its best, and to the one that its evaluator plays; the last two are kept."""
FORMAT = 2
"""The manifest's format. Format 1 had no digest of the manifest itself."""
FORMAT_KEY, DIGEST_KEY = "format", "manifest_sha256"
NEEDED = ("agent", "learner_step", "env_steps", "policy_version", "files")
"""Required entries of a manifest; those of format 1 have them, too."""


def write_manifest(checkpoint: Path, entries: Mapping[str, Any], files: Sequence[str]) -> None:
    """Write and sync a checkpoint's manifest.

    Args:
        checkpoint: the checkpoint's folder, in which all other files are complete.
        entries: what the manifest says, as JSON values.
        files: the names of the other files; the manifest gets the hash of each.
    """
    path = checkpoint / MANIFEST
    hashes = {name: file_digest(checkpoint / name) for name in files}
    path.write_text(json.dumps(with_digest({**entries, "files": hashes}), indent=1))
    sync_path(path)


def with_digest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest as it is written: converted to JSON values, with its format and digest added."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(manifest) | {FORMAT_KEY: FORMAT}))
    return plain | {DIGEST_KEY: manifest_digest(plain)}


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 in hex of a manifest's entries, except the digest itself; their order has no effect."""
    entries = {name: value for name, value in manifest.items() if name != DIGEST_KEY}
    return hashlib.sha256(canonical_json(entries)).hexdigest()


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and verify its digest and the hash of every file.

    Raises:
        UserError: if the folder is not a complete, undamaged checkpoint.
    """
    manifest = open_manifest(checkpoint)
    for name, expected in manifest["files"].items():
        path = checkpoint / name
        if not _is(path, expected):
            raise UserError(f"{path} is damaged or missing: its hash is not the one in {MANIFEST}; take an older checkpoint")
    return manifest


def open_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and verify its digest, but not the other files.

    Raises:
        UserError: if the manifest is missing or damaged.
    """
    path = checkpoint / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError:
        raise UserError(
            f"{checkpoint} is not a checkpoint: expected a folder with {MANIFEST}, such as runs/latest/checkpoints/latest"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is damaged: it is not JSON; take an older checkpoint") from None
    problem = problem_of(manifest)
    if problem:
        raise UserError(f"{path} is damaged: {problem}; take an older checkpoint")
    return dict(manifest)


def problem_of(manifest: object) -> str:
    """Why a manifest is invalid; empty if it is valid."""
    if not isinstance(manifest, dict):
        return f"expected a mapping, got {type(manifest).__name__}"
    # Checkpoints of format 1 have neither a format nor a digest.
    if FORMAT_KEY in manifest or DIGEST_KEY in manifest:
        if manifest.get(FORMAT_KEY) != FORMAT:
            return f"expected {FORMAT_KEY} {FORMAT}, got {manifest.get(FORMAT_KEY)!r}"
        if manifest.get(DIGEST_KEY) != manifest_digest(manifest):
            return "its digest is not that of its content"
    missing = [name for name in NEEDED if name not in manifest]
    if missing:
        return f"it has no {missing[0]}"
    return _problem_of_files(manifest["files"])


def _problem_of_files(files: object) -> str:
    if not isinstance(files, dict) or MODEL_FILE not in files:
        return f"its files do not include {MODEL_FILE}"
    return "" if all(Path(name).name == name for name in files) else "its files lie in other folders"


def _is(path: Path, digest: object) -> bool:
    try:
        return path.is_file() and file_digest(path) == digest
    except OSError:  # unreadable, or removed while it was read
        return False


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_checkpoint(path: Path) -> Path:
    """The folder of a checkpoint. A run folder means its newest checkpoint.

    Raises:
        UserError: if there is none.
    """
    if (path / CONFIG_FILE).is_file() and not (path / MANIFEST).is_file():  # a downloaded policy has both
        newest = path / "checkpoints" / LATEST
        if not newest.exists():
            raise UserError(
                f"{path} is the folder of a run that has no checkpoint: it has just begun, or it ended before the first one; "
                "expected a run that has one, or a checkpoint"
            )
        return newest.resolve()
    if not path.is_dir():
        raise UserError(f"{path} is not a checkpoint: expected a folder, such as runs/latest/checkpoints/latest or runs/latest")
    return path.resolve()
