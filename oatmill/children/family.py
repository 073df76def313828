"""Finds and ends all processes that a role has started, wherever they are now.

Standard library only; Linux only.

A game or a simulator may start its own session, or fork twice, so that it has no living ancestor in
the run. But it keeps its environment: every role is started with its own value of `OATMILL_FAMILY`,
which all its descendants inherit.

As a program, this file is the guardian of a run or of one role. It outlives its parent, however the
parent ends, lets the roles end in order, and then ends what they have left behind. It is run by its
path, so it imports nothing of this project.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Collection
from pathlib import Path

FAMILY = "OATMILL_FAMILY"
"""The environment variable that contains a role's tag."""
GRACE_S = 75.0
"""After the death of a supervisor, its roles have this long to end in order. A learner may save a
checkpoint in this time."""
LOOK_EVERY_S = 0.5
GONE_WITHIN_S = 2.0
"""How long to wait for killed processes to end. A process that the kernel blocks (a disk, a driver)
is left to it."""


class Guardian:
    """A small process that ends what roles have left behind when this process is gone, however it ended.

    Attributes:
        pid: the guardian's process id.
    """

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
        silent = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=silent, stderr=silent, cwd="/", env=_untagged(), start_new_session=True
        )
        self.pid = self._process.pid
        assert self._process.stdin is not None, "it was started with a pipe"
        self._pipe = self._process.stdin
        os.set_blocking(self._pipe.fileno(), False)  # a stopped guardian must not block this process

    def watch(self, tag: str, pid: int) -> None:
        """Watch one more role. Does nothing if somebody has killed the guardian."""
        with contextlib.suppress(OSError):
            os.write(self._pipe.fileno(), f"{tag} {pid}\n".encode())

    def close(self) -> None:
        """End the guardian: there is nothing left to end."""
        self._process.kill()
        self._pipe.close()
        self._process.wait()


def new_tag() -> str:
    """Return a tag that no other role on this machine has."""
    return uuid.uuid4().hex


def guard_this_process() -> None:
    """Start a guardian that ends what this process has started, after this process has ended.

    A program that replaces this one (exec) is guarded, too.
    """
    tag = os.environ.get(FAMILY) or new_tag()
    Guardian().watch(tag, os.getpid())
    os.environ[FAMILY] = tag


def end_families(tags: Collection[str]) -> list[int]:
    """Kill all processes that have one of these tags, the roles included, and wait until they are gone.

    Parents, process groups and sessions are not used: their numbers may have been reused by now.

    Args:
        tags: the tags of the roles.

    Returns:
        The ids of the killed processes. A process that was started with an empty environment is not
        found, nor is one whose environment this user may not read.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + GONE_WITHIN_S
    while found := members(tags):  # repeat: a process may have started another one just before it was killed
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed.update(found)
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return sorted(killed)


def members(tags: Collection[str]) -> list[int]:
    """Return the processes that have one of these tags, without this process."""
    if not Path("/proc/self/environ").exists():  # not Linux
        return []
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    wanted = {tag.encode() for tag in tags}
    return [pid for pid in pids if pid != os.getpid() and _tag_of(pid) in wanted]


def _tag_of(pid: int) -> bytes | None:
    """Return the tag of a process; None if it has none, belongs to another user, or is gone."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123  (called for every process of the machine)
            content = b"\0" + file.read()
    except OSError:
        return None
    found = content.partition(f"\0{FAMILY}=".encode())[2]
    return found.partition(b"\0")[0] or None


def _untagged() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != FAMILY}


def _guard(parent: int) -> None:
    """Wait until the parent is gone. Then end each role's family once the role has ended or is too slow."""
    roles = _told(parent)
    deadline = time.monotonic() + GRACE_S
    while roles:
        late = time.monotonic() > deadline
        ended = [tag for tag, pid in roles.items() if late or _tag_of(pid) != tag.encode()]
        end_families(ended)
        roles = {tag: pid for tag, pid in roles.items() if tag not in ended}
        time.sleep(LOOK_EVERY_S / 5)


def _told(parent: int) -> dict[str, int]:
    """Wait until the parent is gone, and return the roles that it reported, by their tags."""
    told, open_ = b"", True
    while open_ or os.getppid() == parent:
        if not open_:  # another program has taken the parent's place
            time.sleep(LOOK_EVERY_S)
        elif select.select([0], [], [], LOOK_EVERY_S)[0]:
            new = os.read(0, 65536)
            told, open_ = told + new, bool(new)
        elif os.getppid() != parent:  # a process that the parent has forked holds the pipe open
            break
    return {tag: int(pid) for tag, pid in (line.split() for line in told.decode().splitlines())}


if __name__ == "__main__":
    _guard(int(sys.argv[1]))
