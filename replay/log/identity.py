"""A run's id, which shows whose log it is.

It is a file in the run's folder; checkpoints and the log have a copy.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from oatmill.errors import UserError
from oatmill.files.atomic import write_file
from oatmill.files.state_file import DamagedStateError, decode_state, encode_state
from replay.log.records import HEAD_BYTES, SegmentHead, read_head

NAME = "run_id"
KIND = "run_id"
ID_CHARACTERS = 16


def run_id(run_dir: Path, log: Path) -> tuple[str, str]:
    """Return the run's id. It is created if there is none.

    Args:
        run_dir: the run's folder.
        log: the log's folder.

    Returns:
        The id, and a line about damage; empty if there was none.
    """
    path, said = run_dir / NAME, ""
    try:
        return checked(decode_state(KIND, path.read_bytes())), ""
    except FileNotFoundError:
        pass
    except (OSError, DamagedStateError) as error:
        said = f"{path} is damaged ({error}): the run's id is taken from its checkpoints or its log"
    found = from_checkpoints(run_dir / "checkpoints") or (from_log(log) if log.parent == run_dir else None)
    found = found or secrets.token_hex(ID_CHARACTERS // 2)
    try:
        write_file(path, encode_state(KIND, found), sync=True)
    except OSError as error:
        said = said or f"{path} could not be written: {error.strerror}; the run's id is in its log"
    return found, said


def checked(value: object) -> str:
    """Return the value if it is an id.

    Raises:
        DamagedStateError: if it is not.
    """
    if not isinstance(value, str) or len(value) != ID_CHARACTERS or not value.isalnum():
        raise DamagedStateError("expected an id of 16 letters and digits")
    return value


def from_checkpoints(folder: Path) -> str | None:
    """Return the id in the run's checkpoints; None if they have none."""
    for manifest in sorted(folder.glob("step-*/manifest.json"), reverse=True):
        try:
            return checked(json.loads(manifest.read_bytes())["replay"]["id"])
        except (OSError, ValueError, LookupError, TypeError, DamagedStateError):
            continue
    return None


def from_log(folder: Path) -> str | None:
    """Return the id in a log in the run's own folder; None if it has none."""
    for head in heads_of(folder):
        if head is not None and head.run:
            return head.run
    return None


def check_owner(run: str, run_dir: Path, log: Path) -> None:
    """Check that a log belongs to this run, before anything in it is changed.

    A log in the old format does not name its run. It belongs to this run if it is in the run's
    folder, or if a server of the run has used it before.

    Raises:
        UserError: if it belongs to another run, or cannot be read.
    """
    try:
        owners = {head.run for head in heads_of(log) if head is not None} - {run}
    except OSError as error:
        raise UserError(f"the log in {log} cannot be read: {error.strerror}") from None
    adopts = log.parent == run_dir or (run_dir / "policy_version").exists()
    if owners - {""} or ("" in owners and not adopts):
        whose = f"run {max(owners)}" if max(owners) else "an older run"
        raise UserError(
            f"{log} contains the log of {whose}, and this is run {run}; set another replay.log_dir for this run, or move that "
            "log away"
        )


def heads_of(folder: Path) -> list[SegmentHead | None]:
    """Return the heads of the segments in a folder; None for a damaged head."""
    heads = []
    for path in sorted(folder.glob("[0-9]*.log")):
        with path.open("rb") as file:
            heads.append(read_head(file.read(HEAD_BYTES)))
    return heads
