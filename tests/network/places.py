"""Namespaces of this machine as hosts, and the real roles of a run in them.

All that is made here is taken away again however a test ends: processes by their ids, then the namespaces. What a test run left
behind that was killed itself is swept by the next one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from tests.network.network import TUN, Host, Network

PREFIX = "oatmill-test"
ENDS_WITHIN_S = 5.0


def missing_privilege() -> str | None:
    """What of root, TUN and namespaces this machine does not give; None if all is there."""
    if os.geteuid() != 0:
        return "namespaces with a network of their own need root"
    if not os.access(TUN, os.R_OK | os.W_OK):
        return f"{TUN} is not there or may not be used"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    try:
        for action in ("add", "del"):
            subprocess.run(["ip", "netns", action, probe], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        return "the command ip (iproute2) is not installed"
    except subprocess.CalledProcessError as error:
        return f"ip netns {action} failed: {error.stderr.strip()}"
    return None


def sweep() -> None:
    """Remove namespaces of test runs that are dead."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name = line.split()[0]
        owner = name.removeprefix(f"{PREFIX}-").split("-")[0]
        if name.startswith(PREFIX) and owner.isdigit() and not psutil.pid_exists(int(owner)):
            remove(name)


def remove(namespace: str) -> None:
    """End every process in a namespace of ours, and remove it."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout
    for pid in map(int, listed.split()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], check=True)


@contextmanager
def network_of(*names: str, seed: int = 0) -> Iterator[tuple[Network, list[Host]]]:
    """Hosts on one network, by name; gone at the end."""
    sweep()
    with ExitStack() as stack:
        network = Network(seed)
        stack.callback(network.close)
        hosts = []
        for name in names:
            namespace = f"{PREFIX}-{os.getpid()}-{name}"
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            stack.callback(remove, namespace)
            hosts.append(network.attach(namespace))
        network.start()
        yield network, hosts


class Process:
    """A process in a namespace.

    Args:
        host: where.
        command: its command line.
        environment: all of its environment.
        output: the file that gets what it says.
    """

    def __init__(self, host: Host, command: Sequence[str], environment: dict[str, str], output: Path) -> None:
        self.output = output
        with output.open("w") as file:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", host.name, *command],
                cwd=output.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """Its id: `ip netns exec` becomes what it starts."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The end of what it has said."""
        return self.output.read_text()[-3000:]

    def wait(self, timeout_s: float) -> int:
        """Its exit code."""
        return self._process.wait(timeout_s)

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def end(self) -> None:
        """End it, in order if it will."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def until(done: Callable[[], bool], within_s: float, what: str, *, alive: Sequence[Process] = ()) -> float:
    """Wait for something while processes live; how long that took."""
    began = time.monotonic()
    while not done():
        for process in alive:
            assert process.code is None, (
                f"{process.output.name} ended with {process.code}: {process.output.read_text()[-3000:]}"
            )
        assert time.monotonic() - began < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began
