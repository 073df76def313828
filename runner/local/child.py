"""One child process of a run: it ends with its parent, its log has a maximum size, and all that it started ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from oatmill.children.environment import child_environment
from oatmill.children.family import FAMILY, end_families, new_tag
from oatmill.children.parent import dies_with_parent
from oatmill.files.atomic import private_file
from oatmill.process.exit_codes import HUNG
from runner.local.bounded_log import shorten

ERROR_PREFIX = "oatmill: error: "
"""The start of the one line that every role writes when it gives up."""
BACK_OFF_S = 0.5
LONGEST_BACK_OFF_S = 10.0
TAIL_BYTES = 16_384
POLL_S = 0.02


class Child:
    """A process of a run.

    Args:
        role: such as `actor`.
        number: its number within the role.
        command: its command line.
        log: the file to which its output is appended.
        threads: how many threads its numerical libraries may use.

    Attributes:
        pid: its process id.
        tag: marks the environment of every process that it starts (`oatmill.children.family`).
    """

    def __init__(self, role: str, number: int, command: Sequence[str], *, log: Path, threads: int) -> None:
        self.role = role
        self.number = number
        self.log = log
        self.tag = new_tag()
        self._log_start = log.stat().st_size if log.exists() else 0
        with open(log, "ab", opener=private_file) as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(os.environ, threads) | {FAMILY: self.tag},
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  (runs one system call)
            )
        self.pid = self._process.pid
        self.started = time.monotonic()
        self._family: list[psutil.Process] = []
        self._family_ended = False

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"{self.role} {self.number}" if self.role == "actor" else self.role

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        code = self.exit_code
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        if code == HUNG:
            return f"made no progress for longer than {self.role}s' hang_timeout allows and ended itself (its log says where)"
        return f"ended with exit code {code}"

    @property
    def failure(self) -> str:
        """The sentence that describes its end as the reason why the run failed."""
        return f"the {self.name} process {self.ending}{f': {self.error}' if self.error else ''}; its log is {self.log}"

    @property
    def ranks(self) -> list[int]:
        """The process ids of a group's ranks, in order, as far as `look` has found them."""
        found: dict[int, int] = {}
        for process in self._family:
            with contextlib.suppress(psutil.Error, ValueError):
                found[int(process.environ().get("RANK", ""))] = process.pid
        return [found[rank] for rank in sorted(found)]

    def look(self) -> None:
        """Note which processes it has started: after its end they can no longer be found this way."""
        with contextlib.suppress(psutil.Error):
            self._family = psutil.Process(self.pid).children(recursive=True) or self._family

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self.look()
        if self.exit_code is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it and every process that it has started, at once."""
        self.kill_known()
        end_families_of([self])

    def kill_known(self) -> None:
        """End it and the processes that `look` finds, without a search of the whole machine."""
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
        """Whether it has ended and processes that it started may be left."""
        return self.exit_code is not None and not self._family_ended

    def family_ended(self) -> None:
        """Note that every process that it had started has ended."""
        self._family_ended = True

    def bound_log(self) -> None:
        """Shorten its log if it is too long; the first and the newest lines stay. Call it regularly."""
        self._log_start = shorten(self.log, self._log_start)

    def wait(self, deadline: float) -> bool:
        """Wait until it has ended; False if `deadline` (of the monotonic clock) came first."""
        while self.exit_code is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def last_lines(self, count: int) -> list[str]:
        """The last lines of its output, without those of an earlier process with the same log."""
        try:
            with self.log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, end - TAIL_BYTES))
                return file.read().decode(errors="replace").splitlines()[-count:]
        except OSError:  # the run folder was deleted
            return []

    @property
    def error(self) -> str | None:
        """The line with which it gave up, without its prefix; None if it wrote none."""
        lines = [line for line in self.last_lines(200) if line.startswith(ERROR_PREFIX)]
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
    """End the processes that ended children have left behind; one search of the machine for all of them."""
    ended = [child for child in children if child.has_family]
    if not ended:
        return
    end_families([child.tag for child in ended])
    for child in ended:
        child.family_ended()


def back_off(in_vain: int) -> float:
    """Seconds to wait before a restart: none at first, then twice as long each time, up to 10.

    Args:
        in_vain: restarts in a row without progress.
    """
    return min(BACK_OFF_S * 2 ** (in_vain - 1), LONGEST_BACK_OFF_S) if in_vain else 0.0
