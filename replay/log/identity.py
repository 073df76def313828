"""A run's id: which log is whose. It lies in the run's folder; if it is damaged, checkpoints or the log still have it."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from oatmill.errors import UserError
from oatmill.files.atomic import DamagedStateError, sealed, unsealed, write_file
from replay.log.records import HEAD_BYTES, Head, read_head

NAME = "run_id"
KIND = "run_id"
ID_CHARACTERS = 16


def run_id(run_dir: Path, log: Path) -> tuple[str, str]:
    """The run's id, made if there is none.

    Args:
        run_dir: the run's folder.
        log: the log's folder.

    Returns:
        The id, and a line about what was damaged; empty if nothing was.
    """
    path, said = run_dir / NAME, ""
    try:
        return checked(unsealed(KIND, path.read_bytes())), ""
    except FileNotFoundError:
        pass
    except (OSError, DamagedStateError) as error:
        said = f"{path} is damaged ({error}): the run's id is taken from its checkpoints or its log"
    found = from_checkpoints(run_dir / "checkpoints") or (from_log(log) if log.parent == run_dir else None)
    found = found or secrets.token_hex(ID_CHARACTERS // 2)
    try:
        write_file(path, sealed(KIND, found), sync=True)
    except OSError as error:
        said = said or f"{path} could not be written: {error.strerror}; the run's id is in its log"
    return found, said


def checked(value: object) -> str:
    """An id.

    Raises:
        DamagedStateError: if it is none.
    """
    if not isinstance(value, str) or len(value) != ID_CHARACTERS or not value.isalnum():
        raise DamagedStateError("expected an id of 16 letters and digits")
    return value


def from_checkpoints(folder: Path) -> str | None:
    """The id that the run's checkpoints name."""
    for manifest in sorted(folder.glob("step-*/manifest.json"), reverse=True):
        try:
            return checked(json.loads(manifest.read_bytes())["replay"]["id"])
        except (OSError, ValueError, LookupError, TypeError, DamagedStateError):
            continue
    return None


def from_log(folder: Path) -> str | None:
    """The id in a log that lies in the run's own folder."""
    for head in heads_of(folder):
        if head is not None and head.run:
            return head.run
    return None


def check_owner(run: str, run_dir: Path, log: Path) -> None:
    """See that a log is this run's, before anything of it is changed.

    An old log does not say whose it is. It is this run's if it lies in the run's folder, or if a server of the run has been
    here before.

    Raises:
        UserError: if it is another run's, or cannot be read.
    """
    try:
        owners = {head.run for head in heads_of(log) if head is not None} - {run}
    except OSError as error:
        raise UserError(f"the log in {log} cannot be read: {error.strerror}") from None
    adopts = log.parent == run_dir or (run_dir / "policy_version").exists()
    if owners - {""} or ("" in owners and not adopts):
        whose = f"run {max(owners)}" if max(owners) else "an older run"
        raise UserError(
            f"{log} holds the log of {whose}, and this is run {run}; give this run a replay.log_dir of its own, or move that "
            "log away"
        )


def heads_of(folder: Path) -> list[Head | None]:
    """What the segments in a folder say of themselves."""
    heads = []
    for path in sorted(folder.glob("[0-9]*.log")):
        with path.open("rb") as file:
            heads.append(read_head(file.read(HEAD_BYTES)))
    return heads
