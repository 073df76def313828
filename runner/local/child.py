"""A child process of a run, with a log of limited size; it ends with its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import psutil

from oatmill.children.environment import child_environment
from oatmill.children.family import FAMILY, end_families, new_tag
from oatmill.children.parent import dies_with_parent
from oatmill.files.atomic import private_file
from oatmill.files.full_disk import is_full
from oatmill.process.exit_codes import HUNG
from oatmill.process.last_words import LastWords
from oatmill.user_code import place_in_stacks
from runner.local.bounded_log import LONGEST_BYTES, shorten

ERROR_PREFIX = "oatmill: error: "
"""The prefix of the line that every role writes before it exits with an error."""
BACK_OFF_S = 0.5
LONGEST_BACK_OFF_S = 10.0
TAIL_BYTES = 16_384
POLL_S = 0.02

HANG_SETTINGS = {"actor": "actors.hang_timeout", "learner": "trainer.hang_timeout", "replay": "replay.hang_timeout"}


class Started(Protocol):
    """A process that was started: what `Child` uses of `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        ...

    def wait(self, timeout: float) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM."""
        ...

    def kill(self) -> None:
        """Send SIGKILL."""
        ...


class Start(Protocol):
    """A way to start a process."""

    def __call__(self, command: Sequence[str], *, output: IO[bytes], environment: Mapping[str, str], keep: int) -> Started:
        """See `start_process`."""
        ...


def start_process(command: Sequence[str], *, output: IO[bytes], environment: Mapping[str, str], keep: int) -> Started:
    """Start a process that gets SIGTERM when this one ends.

    Args:
        command: the command line.
        output: the file for its output.
        environment: its environment variables.
        keep: the descriptor that it inherits.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(keep,),
        start_new_session=True,
        preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  (runs one system call)
    )


class Child:
    """A process of a run.

    Args:
        role: the role, such as `actor`.
        number: the process's number within the role.
        command: the command line.
        log: the file to which the output is appended.
        threads: the number of threads for numerical libraries.
        start: the way to start it.

    Attributes:
        pid: the process id.
        tag: an environment variable's value that marks the process and its children
            (see `oatmill.children.family`).
        prints_much: whether its log had to be shortened.
    """

    def __init__(
        self,
        role: str,
        number: int,
        command: Sequence[str],
        *,
        log: Path,
        threads: int,
        start: Start = start_process,
    ) -> None:
        self.role = role
        self.number = number
        self.log = log
        self.prints_much = False
        self.tag = new_tag()
        self._log_start = log.stat().st_size if log.exists() else 0
        self._words = LastWords()
        with open(log, "ab", opener=private_file) as output:
            environment = child_environment(os.environ, threads) | {FAMILY: self.tag} | self._words.environment
            self._process = start(command, output=output, environment=environment, keep=self._words.descriptor)
        self._words.given()
        self.pid = self._process.pid
        self.started = time.monotonic()
        self._family: list[psutil.Process] = []
        self._family_ended = False

    @property
    def name(self) -> str:
        """The process's name in messages."""
        return f"{self.role} {self.number}" if self.role == "actor" else self.role

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        return self._process.poll()

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        code = self.exit_code
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        if code == HUNG:
            place = place_in_stacks("\n".join(self.last_lines(200))) or "its log says where"
            return f"made no progress for longer than {HANG_SETTINGS.get(self.role, 'hang_timeout')} and ended itself ({place})"
        full = " (its log may lack the reason, because the disk is full)" if not self.error and is_full(self.log.parent) else ""
        return f"ended with exit code {code}{full}"

    @property
    def failure(self) -> str:
        """A message that says why the run failed: this process has ended."""
        return f"the {self.name} process {self.ending}{f': {self.error}' if self.error else ''}; its log is {self.log}"

    @property
    def ranks(self) -> list[int]:
        """The process ids of those ranks of the learner that `look` has found, in order."""
        found: dict[int, int] = {}
        for process in self._family:
            with contextlib.suppress(psutil.Error, ValueError):
                found[int(process.environ().get("RANK", ""))] = process.pid
        return [found[rank] for rank in sorted(found)]

    def look(self) -> None:
        """Record the process's children, because they cannot be found this way after it has ended."""
        with contextlib.suppress(psutil.Error):
            self._family = psutil.Process(self.pid).children(recursive=True) or self._family

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM)."""
        self.look()
        if self.exit_code is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process and all of its children."""
        self.kill_known()
        end_families_of([self])

    def kill_known(self) -> None:
        """Kill the process and the children that `look` has found, without searching the machine."""
        self.look()
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.exit_code is None:
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)

    @property
    def has_family(self) -> bool:
        """Whether the process has ended but some of its children may still run."""
        return self.exit_code is not None and not self._family_ended

    def family_ended(self) -> None:
        """Record that all of its children have ended."""
        self._family_ended = True

    def bound_log(self) -> None:
        """Shorten the log if it is too long. Call this regularly."""
        with contextlib.suppress(OSError):
            self.prints_much = self.prints_much or self.log.stat().st_size > LONGEST_BYTES
        self._log_start = shorten(self.log, self._log_start)

    def wait(self, deadline: float) -> bool:
        """Wait until the process has ended; False if it still runs at `deadline` (monotonic clock)."""
        while self.exit_code is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def last_lines(self, count: int) -> list[str]:
        """The last lines of the output, without lines of an earlier process that used the same log."""
        try:
            with self.log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, end - TAIL_BYTES))
                return file.read().decode(errors="replace").splitlines()[-count:]
        except OSError:  # the run folder was deleted
            return []

    @property
    def error(self) -> str | None:
        """The error line of the process, without its prefix; None if it wrote none."""
        written = [*self.last_lines(200), *self._words.read()]  # its log may be on a full disk
        lines = [line for line in written if line.startswith(ERROR_PREFIX)]
        return lines[0].removeprefix(ERROR_PREFIX) if lines else None


def end_all(children: Sequence[Child], *, grace_s: float) -> None:
    """Ask processes to end, and kill those that still run after `grace_s` seconds."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + grace_s
    for child in children:
        child.wait(deadline)
    for child in children:
        child.kill_known()
    end_families_of(children)


def end_families_of(children: Iterable[Child]) -> None:
    """Kill processes that ended children have left running, with one search of the machine's processes."""
    ended = [child for child in children if child.has_family]
    if not ended:
        return
    end_families([child.tag for child in ended])
    for child in ended:
        child.family_ended()


def back_off(in_vain: int) -> float:
    """Seconds to wait before a restart: 0 for the first, then 0.5, doubled each time, up to 10.

    Args:
        in_vain: the number of restarts in a row without progress.
    """
    return min(BACK_OFF_S * 2 ** (in_vain - 1), LONGEST_BACK_OFF_S) if in_vain else 0.0
