"""One child process of a run: it cannot outlive its parent, its log is bounded, and it is ended with all it has started."""

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
"""How every role begins the one line that it leaves when it gives up."""


TAIL_BYTES = 16_384
POLL_S = 0.02


class Child:
    """A process of a run.

    Args:
        role: such as `actor`.
        number: its number within the role.
        command: what is run.
        log: the file that its output is added to.
        threads: how many threads its numerical libraries may use.

    Attributes:
        pid: its process.
        tag: what the environment of everything that it starts says (`oatmill.children.family`).
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
    def ranks(self) -> list[int]:
        """The processes of a group's ranks, in order, as far as they are known; `look` finds them."""
        found: dict[int, int] = {}
        for process in self._family:
            with contextlib.suppress(psutil.Error, ValueError):
                found[int(process.environ().get("RANK", ""))] = process.pid
        return [found[rank] for rank in sorted(found)]

    def look(self) -> None:
        """Note which processes it has started: once it has ended, nothing leads to them any more."""
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
        """Note that what it had started has been ended."""
        self._family_ended = True

    def bound_log(self) -> None:
        """Shorten its log if it has grown too long: the first and the newest lines are kept. Call it again and again."""
        self._log_start = shorten(self.log, self._log_start)

    def wait(self, deadline: float) -> bool:
        """Wait until it has ended; False if `deadline` (by the monotonic clock) came first."""
        while self.exit_code is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def last_lines(self, count: int) -> list[str]:
        """The last lines of its output, of this process only and not of one before it under the same name."""
        try:
            with self.log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, end - TAIL_BYTES))
                return file.read().decode(errors="replace").splitlines()[-count:]
        except OSError:  # somebody has removed the run's folder
            return []

    @property
    def error(self) -> str | None:
        """The line with which it gave up, without its prefix; None if it left none."""
        lines = [line for line in self.last_lines(200) if line.startswith(ERROR_PREFIX)]
        return lines[0].removeprefix(ERROR_PREFIX) if lines else None


def end_all(children: Sequence[Child], *, grace_s: float) -> None:
    """Ask processes to end, and kill what is left after the grace."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + grace_s
    for child in children:
        child.wait(deadline)
    for child in children:
        child.kill_known()
    end_families_of(children)


def end_families_of(children: Iterable[Child]) -> None:
    """End what children that have ended had started, wherever it has gone; one search of the machine for all of them."""
    ended = [child for child in children if child.has_family]
    if not ended:
        return
    end_families([child.tag for child in ended])
    for child in ended:
        child.family_ended()
