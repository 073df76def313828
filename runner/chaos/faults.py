"""The faults of `oatmill chaos` besides killing and stopping processes, one function each.

A fault returns its name when it is over, or an empty string if it could not be made. Its random choices
come from the given random number generator.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

from oatmill.errors import UserError
from oatmill.process.kill import kill_all
from runner.folder import read_json

STOPPED_S = (0.3, 3.0)
SUPERVISOR_STOPPED_S = (1.0, 6.0)
LONG_STOP_S = 65.0
"""Longer than any process waits for a message from another one."""
LONG_STOP_FROM_S = 600.0
"""In runs of at least this length, the supervisor is stopped for `LONG_STOP_S` once."""
SLOW_S = (4.0, 8.0)
SLOW_PULSE_S = (0.45, 0.05)
"""Seconds for which a slow actor is repeatedly stopped and running: it gets a tenth of the time."""
FULL_S = (2.0, 8.0)
ROOM_BYTES = 256 * 2**20
"""Size of the small file system for the full disk."""
CONNECTIONS = 400
FLOOD_S = (2.0, 5.0)
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01"
"""The beginning of ZeroMQ's greeting; the rest is never sent."""
PLACE = re.compile(r"(?:tcp|http)://([\d.]+):(\d+)(?:/.*)?")
SKEW_S = 86_400.0
CLOCKS = 16
CLOCK_VARIABLE = "OATMILL_CHAOS_CLOCKS"
SKEWED = Path(__file__).with_name("skewed")


@dataclass
class Scene:
    """A run into which faults are injected.

    Attributes:
        folder: the run folder.
        supervisor: the process id of the supervisor.
        seconds: for how long faults are injected in total.
        planned: a context manager for the time in which the fault itself prevents training.
        clocks: the file with the offsets of the clocks.
        flips: the flipped bits of the log, as text.
        long_stop: whether the supervisor has been stopped for `LONG_STOP_S`.
    """

    folder: Path
    supervisor: int
    seconds: float
    planned: Callable[[], contextlib.AbstractContextManager[None]]
    clocks: Path
    flips: list[str] = field(default_factory=list)
    long_stop: bool = False

    def processes(self, role: str) -> list[dict[str, Any]]:
        """The processes of a role, from run.json."""
        found: list[dict[str, Any]] = read_json(self.folder / "run.json").get("processes", [])
        return [entry for entry in found if entry["role"] == role]


def signalled(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process; nothing happens if it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process, and continue it at the end of the `with` block."""
    signalled(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        signalled(pid, signal.SIGCONT)


def stop_supervisor(scene: Scene, random: Random) -> str:
    """Stop the supervisor for a while; the other processes continue."""
    seconds = random.uniform(*SUPERVISOR_STOPPED_S)
    if scene.seconds >= LONG_STOP_FROM_S and not scene.long_stop:
        scene.long_stop, seconds = True, LONG_STOP_S
    with stopped(scene.supervisor):
        time.sleep(seconds)
    return "supervisor stopped"


def slow_actor(scene: Scene, random: Random) -> str:
    """Slow one actor down to a tenth for a while."""
    seconds, actors = random.uniform(*SLOW_S), scene.processes("actor")
    if not actors:
        return ""
    pid, end = random.choice(actors)["pid"], time.monotonic() + seconds
    while time.monotonic() < end:
        with stopped(pid):
            time.sleep(SLOW_PULSE_S[0])
        time.sleep(SLOW_PULSE_S[1])
    return "actor slowed"


def fill_disk(scene: Scene, random: Random) -> str:
    """Fill the run's disk for a while; in half of the cases, also kill a process meanwhile."""
    seconds, role = random.uniform(*FULL_S), random.choice(("replay", "actor", "learner", "", "", ""))
    ballast = scene.folder / "ballast"
    with scene.planned():
        try:
            with ballast.open("wb", buffering=0) as file:
                for size in (2**20, 4096, 1):
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(size))
            for entry in scene.processes(role)[:1]:
                signalled(entry["pid"], signal.SIGKILL)
            time.sleep(seconds)
        finally:
            ballast.unlink(missing_ok=True)
    return "disk full"


def flood(scene: Scene, random: Random) -> str:
    """Open many connections to the run's ports that send nothing, half a greeting, or random bytes."""
    urls = read_json(scene.folder / "run.json")["endpoints"]["replay"].values()
    places = [(found[1], int(found[2])) for url in urls if (found := PLACE.fullmatch(str(url)))]
    seconds = random.uniform(*FLOOD_S)
    with contextlib.ExitStack() as held:
        for _ in range(CONNECTIONS):
            connection = held.enter_context(socket.socket())
            connection.settimeout(0.2)
            with contextlib.suppress(OSError):
                connection.connect(random.choice(places))
                connection.sendall(random.choice((b"", GREETING, random.randbytes(64))))
        time.sleep(seconds)
    return "connections flooded"


def flip_log_bit(scene: Scene, random: Random) -> str:
    """Kill the replay server and flip one bit of its log before the supervisor restarts it."""
    with stopped(scene.supervisor):  # otherwise the next server could read the log before the flip
        for entry in scene.processes("replay"):
            end_family(entry["pid"])
        segments = sorted((scene.folder / "log").glob("*.log"))
        if not segments:
            return ""
        # The end of the newest segment is not changed: a damaged last record looks like a torn write
        # after a crash (decision 024).
        segment = random.choice(segments[:-1] or segments)
        nbytes = segment.stat().st_size // (2 if segment == segments[-1] else 1)
        if not nbytes:
            return ""
        offset, bit = random.randrange(nbytes), random.randrange(8)
        with segment.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1 << bit]))
        scene.flips.append(f"{segment.name} byte {offset} bit {bit}")
    return "log bit flipped"


def end_family(pid: int) -> None:
    """Kill a process and its children, and wait until they have ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        kill_all([process, *process.children(recursive=True)])


def set_clock(scene: Scene, random: Random) -> str:
    """Change the time of day of about half of the processes by up to a day."""
    with scene.clocks.open("r+b") as file:
        for clock in range(CLOCKS):
            if random.random() < 0.5:  # noqa: PLR2004
                file.seek(8 * clock)
                file.write(struct.pack("d", random.uniform(-SKEW_S, SKEW_S)))
    return "clocks set"


FAULTS: Mapping[str, Callable[[Scene, Random], str]] = {
    "supervisor": stop_supervisor,
    "slow": slow_actor,
    "disk": fill_disk,
    "flood": flood,
    "flip": flip_log_bit,
    "clock": set_clock,
}
"""Faults by the names of `--fault`, which also takes `kill` and `stop`."""


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system for the run folder; at the end its files are copied to the same place.

    Raises:
        UserError: if mounting is not permitted.
    """
    folder.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES},mode=700", "oatmill-chaos", str(folder)]
    try:
        subprocess.run(command, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        folder.rmdir()
        reason = (getattr(error, "stderr", "") or str(error)).partition("\n")[0]
        raise UserError(
            f"--fault disk must mount a small file system, which failed ({reason}); run the command as root or with "
            "`unshare --map-root-user --mount`, or leave `disk` out"
        ) from None
    kept = folder.with_name(f"{folder.name}.kept")
    try:
        yield
    finally:
        shutil.copytree(folder, kept, symlinks=True)
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
        folder.rmdir()
        kept.rename(folder)


def clocks(path: Path) -> dict[str, str]:
    """Create the file with the clocks' offsets; returns the environment variables that enable it."""
    path.write_bytes(struct.pack(f"{CLOCKS}d", *[0.0] * CLOCKS))
    search = os.pathsep.join(filter(None, [str(SKEWED), os.environ.get("PYTHONPATH", "")]))
    return {CLOCK_VARIABLE: str(path), "PYTHONPATH": search}
