"""Starts all ranks of a learner on one host, and ends them together: `python -m learner.ranks.spawn RANKS ARGUMENTS...`.

The ranks find each other through a file in a folder that only this user may enter, and they communicate over the loopback
interface. No other host can connect to the ranks, and no open network server is needed. This process does not load torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from oatmill.children.parent import dies_with_parent
from oatmill.errors import UserError
from oatmill.process.entry import run_to_exit
from oatmill.process.exit_codes import BAD_INPUT, RANK_STOPPED
from oatmill.process.last_words import LastWords, say_last
from oatmill.process.signals import StopFlag

STORE = "OATMILL_RANKS_STORE"
"""The environment variable with the path of the file through which the ranks of one host find each other."""
POLL_S = 0.05
SETTLE_S = 0.5
"""If one rank's failure makes others fail, all of them end within this time."""
GRACE_S = 5.0
"""After a rank has failed, the others get SIGTERM and this much time to end. They cannot continue without it."""


class Group:
    """The running ranks. SIGTERM and SIGINT are passed on to every rank.

    Args:
        command: starts one rank. The environment variables RANK, LOCAL_RANK and WORLD_SIZE say which one.
        count: the number of ranks.
        folder: a private folder for the file through which the ranks find each other.
    """

    def __init__(self, command: Sequence[str], count: int, folder: Path) -> None:
        self._command, self._count, self._folder = command, count, folder
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._words = LastWords()
        self._stop = StopFlag(self._pass_on)

    def run(self) -> int:
        """Start all ranks and wait until they have ended.

        Returns:
            0 if all ranks ended with 0. Otherwise the exit code of the rank that failed first, or 128 + the signal number
            if a signal killed it. The other ranks have been ended, too.
        """
        try:
            for rank in range(self._count):
                self._ranks.append(self._start(rank))
                if self._stop.is_set:  # the signal came before this rank was started
                    self._ranks[-1].terminate()
            codes = self._wait()
            if not any(codes.values()):
                return 0
            self._end_the_others()
            return self._failed(codes)
        finally:
            for process in self._ranks:
                process.kill()
                process.wait()

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self._count, STORE: self._folder / "store"}
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            env=os.environ | {name: str(value) for name, value in own.items()} | self._words.environment,
            pass_fds=(self._words.descriptor,),
            # SIGKILL, because a rank that waits in a collective operation does not react to SIGTERM.
            preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509  (runs one system call)
        )

    def _pass_on(self) -> None:
        for process in self._ranks:
            process.terminate()

    def _wait(self) -> Mapping[int, int]:
        """Wait until all ranks have ended or one has failed, and return the exit codes of the ranks that have ended."""
        while len(codes := self._codes()) < self._count and not any(codes.values()):
            time.sleep(POLL_S)
        self._all_end(within_s=SETTLE_S)
        return self._codes()

    def _codes(self) -> dict[int, int]:
        """The exit codes of the ranks that have ended. A rank that is asked to stop stops them all in order."""
        ended = {rank: code for rank, process in enumerate(self._ranks) if (code := process.poll()) is not None}
        return {rank: 0 if code == RANK_STOPPED else code for rank, code in ended.items()}

    def _all_end(self, *, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while len(self._codes()) < self._count and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _end_the_others(self) -> None:
        for process in self._ranks:
            process.terminate()
        self._all_end(within_s=GRACE_S)

    def _failed(self, codes: Mapping[int, int]) -> int:
        """Print each rank's error line once, and return the blamed rank's exit code."""
        # A rank that was killed or got bad input has failed by itself. Other ranks may have failed because of it.
        rank = min((rank for rank in codes if codes[rank]), key=lambda rank: (codes[rank] >= 0, codes[rank] != BAD_INPUT, rank))
        code = codes[rank]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = sorted(set(self._words.read())) or [f"oatmill: learner rank {rank} {how}; the other ranks were ended"]
        for line in lines:
            say_last(f"{line}\n")
        return code if code >= 0 else 128 - code


def main() -> int:
    """Run a group of ranks, and return the exit code."""
    return run_to_exit(_run)


def _run() -> int:
    count, arguments = int(sys.argv[1]), sys.argv[2:]
    try:
        folder = tempfile.TemporaryDirectory(prefix="oatmill-ranks-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(f"several ranks need a temporary folder ({error.strerror}); set TMPDIR to one") from None
    with folder as path:
        return Group([sys.executable, "-m", "learner", *arguments], count, Path(path)).run()


if __name__ == "__main__":
    sys.exit(main())
