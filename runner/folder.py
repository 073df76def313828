"""The run folder: creating, locking and finding it, and writing its files."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from oatmill.errors import OatmillError, UserError
from oatmill.files.atomic import FOLDER_MODE, replace_link
from oatmill.files.full_disk import NeededWrites
from oatmill.files.run_files import CONFIG_FILE, EVENTS_FILE, METRICS_FILE, SUMMARY_FILE

RUNS = Path("runs")
"""Folder for runs, below the current folder; `runs/latest` links to the newest run."""
LOCK = ".lock"
WRITTEN_WITHIN_S = 10.0
"""On a full disk, the end of a run waits this long for space for events and summary."""


class RunFolder:
    """One run's folder, held by this process until `release`.

    An advisory lock prevents a second supervisor; the system releases it when this process ends.

    Attributes:
        path: the folder, absolute.
    """

    def __init__(self, path: Path, *, made: Sequence[Path], lock: IO[str]) -> None:
        """Hold a folder.

        Args:
            path: the folder.
            made: the folders that this process has created, innermost first; removed if the run
                does not start.
            lock: the locked lock file.
        """
        self.path = path
        self._made = made
        self._lock = lock
        self._latest_before: str | None = None  # where `runs/latest` pointed before it pointed to this run
        self._writes = NeededWrites(path, owner=True)

    @staticmethod
    def new(path: Path | None, recipe: str) -> RunFolder:
        """Create the folder of a new run.

        Args:
            path: the folder; None for `runs/RECIPE-DATE-TIME`.
            recipe: the recipe's name.

        Raises:
            UserError: if the folder is not empty, or cannot be created.
        """
        where = _absolute(path or RUNS).resolve()
        try:
            made = _reserve(where, recipe) if path is None else _make(where)
            path = where if path else made[0]
            folder = RunFolder(path, made=made, lock=_locked(path))
            for name in ("logs", "checkpoints"):
                (path / name).mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--run-dir {where} cannot be created or written to: {error.strerror}; choose another folder"
            ) from None
        return folder

    @staticmethod
    def existing(path: Path | None) -> RunFolder:
        """Open the folder of an ended run, to continue it.

        Raises:
            UserError: if there is no such run, or it is still running.
        """
        path = find_run(path)
        try:
            return RunFolder(path, made=[], lock=_locked(path))
        except OSError as error:
            raise UserError(f"run folder {path} cannot be written to: {error.strerror}") from None

    @property
    def config(self) -> Path:
        """The settings that every process of the run reads."""
        return self.path / CONFIG_FILE

    @property
    def has_begun(self) -> bool:
        """Whether the run's processes were ever started."""
        return (self.path / EVENTS_FILE).exists()

    @property
    def metrics(self) -> Path:
        """The file with one line per reported learner step."""
        return self.path / METRICS_FILE

    @property
    def gone(self) -> bool:
        """Whether the folder was deleted or moved, even if its path exists again."""
        try:
            kept = os.path.samestat(os.fstat(self._lock.fileno()), (self.path / LOCK).stat())
        except FileNotFoundError:
            kept = False
        return not kept and not self.config.exists()

    def log(self, role: str, number: int) -> Path:
        """The log file of one process."""
        return self.path / "logs" / f"{role}-{number}.log"

    def event(self, name: str, **values: Any) -> None:
        """Append a line to events.jsonl with one write, so that nobody sees a partial line."""
        self._writes.line(self.path / EVENTS_FILE, {"time": time.time(), "event": name} | values)

    def flush(self) -> None:
        """Write the lines that wait for disk space, if there is space now."""
        self._writes.flush()

    def write_run(self, content: Mapping[str, Any]) -> None:
        """Write run.json, readable by its owner only: it has the address to stop the run."""
        self._writes.file(self.path / "run.json", json.dumps(content, indent=1) + "\n")

    def write_summary(self, content: Mapping[str, Any]) -> None:
        """Write summary.json atomically."""
        self._writes.file(self.path / SUMMARY_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def point_latest(self) -> None:
        """Link `runs/latest` to this run, atomically. If the link cannot be made, nothing happens."""
        link = RUNS / "latest"
        if link.exists() and not link.is_symlink():
            return
        with contextlib.suppress(OSError):
            RUNS.mkdir(parents=True, exist_ok=True)
            self._latest_before = str(link.readlink()) if link.is_symlink() else None
            replace_link(link, _seen_from(RUNS, self.path))

    def _point_latest_back(self) -> None:
        """Let `runs/latest` be what it was before this run, unless it points to another run by now."""
        link = RUNS / "latest"
        with contextlib.suppress(OSError):
            if not link.is_symlink() or link.resolve() != self.path:
                return
            if self._latest_before is None:
                link.unlink()
            else:
                replace_link(link, self._latest_before)

    def release(self, *, remove: bool = False) -> None:
        """Write the waiting lines and release the folder; `remove` deletes what was created."""
        self._writes.close(0.0 if remove else WRITTEN_WITHIN_S)
        if remove and self._made:
            self._point_latest_back()
            shutil.rmtree(self.path, ignore_errors=True)
            with contextlib.suppress(OSError):  # there may be another run in the same folder
                for folder in self._made[1:]:
                    folder.rmdir()
        self._lock.close()


def find_run(path: Path | None) -> Path:
    """The absolute path of a run folder; without a path, of the newest run.

    Raises:
        UserError: if there is none.
    """
    folder = _absolute(path or RUNS / "latest")
    if (folder / CONFIG_FILE).is_file():
        return folder.resolve()
    if path is None and folder.is_symlink() and not folder.exists():
        raise UserError(f"runs/latest points to {folder.readlink()}, which does not exist; give a run's folder with --run-dir")
    if path is None:
        raise UserError(
            f"there is no run in {RUNS.absolute()}; start one with `oatmill train`, or give its folder with --run-dir"
        )
    raise UserError(f"{path} is not a run folder: expected a folder with config.yaml, such as runs/latest")


def read_run(folder: Path) -> dict[str, Any]:
    """Read run.json of a running run.

    Raises:
        UserError: if the run has ended.
    """
    content = read_json(folder / "run.json")
    if not content or not is_held(folder):
        from runner.continuing import way_on  # noqa: PLC0415  (it reads files with this module)

        ended = "it has ended, see its summary.json" if (folder / SUMMARY_FILE).exists() else "its processes were killed"
        raise UserError(f"no run is active in {folder}; {ended}; {way_on(folder)}")
    return content


def hub_of(folder: Path, run: Mapping[str, Any]) -> tuple[str, Path | None]:
    """The control address of a run's hub, and the run's folder of keys; None for a run without keys.

    Args:
        folder: the run folder, for messages.
        run: the content of its run.json.

    Raises:
        UserError: if run.json is damaged.
    """
    with reading(folder / "run.json"):
        return str(run["control"]), None if run.get("keys") is None else Path(run["keys"])


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors about a file's content within the `with` block into a UserError that names the file.

    Args:
        path: a file of the run folder, which a full disk or a user may have damaged.

    Raises:
        UserError: if a value is missing, or has another type than expected.
    """
    try:
        yield
    except OatmillError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{path} is damaged, or was written by another version of oatmill ({type(error).__name__}: {error}); "
            "--log-level debug shows where it is read"
        ) from error


def is_held(folder: Path) -> bool:
    """Whether a supervisor holds the folder."""
    try:
        with (folder / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except FileNotFoundError:
        raise UserError("the current folder no longer exists; change to another folder") from None


def folder_name(recipe: str) -> str:
    """The name of a recipe or an environment, such as `atari:pong`, in the name of a folder."""
    return re.sub("[:/]", "-", recipe)


def _reserve(runs: Path, recipe: str) -> list[Path]:
    """Create `RECIPE-DATE-TIME` below `runs`, with a number if the name is taken; see `_make`."""
    stamp = datetime.now(tz=UTC).astimezone().strftime("%Y%m%d-%H%M%S")
    name = f"{folder_name(recipe)}-{stamp}"
    for number in itertools.count(1):
        path = runs / (name if number == 1 else f"{name}-{number}")
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        with contextlib.suppress(FileExistsError):
            path.mkdir(FOLDER_MODE, parents=True)
            return made
    raise AssertionError("numbers do not end")


def _make(path: Path) -> list[Path]:
    """Create a folder; returns the folders that were created, innermost first.

    Raises:
        UserError: if it is a file, in use, or not empty.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    if not made and not path.is_dir():
        raise UserError(f"--run-dir {path} must be a new or empty folder, got a file")
    if is_held(path):
        raise UserError(_busy(path))
    if not made and _has_entries(path):
        raise UserError(f"run folder {path} exists and is not empty; choose another --run-dir, or continue it with --resume")
    path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    return made


def _has_entries(path: Path) -> bool:
    try:
        return any(entry.name != LOCK for entry in path.iterdir())
    except OSError as error:
        raise UserError(f"--run-dir {path} cannot be read: {error.strerror}; choose another folder") from None


def _locked(path: Path) -> IO[str]:
    lock = (path / LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(_busy(path)) from None
    return lock


def _busy(path: Path) -> str:
    return f"another run is active in {path}; wait for it, stop it with `oatmill stop`, or choose another --run-dir"


def _seen_from(link_folder: Path, target: Path) -> Path:
    """A relative path if the target is below the link's folder, so that both can be moved together."""
    folder = link_folder.absolute()
    return target.relative_to(folder) if target.is_relative_to(folder) else target
