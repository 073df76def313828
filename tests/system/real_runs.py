"""Starts the real `oatmill` for system tests, and reads the files and processes of its runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "trainer.batch_size=8",
    "trainer.epochs=1",
    "trainer.minibatches=2",
    "actors.envs_per_actor=4",
    "agent.hidden_sizes=[16]",
]
ENDLESS = [*SMALL, "actors.count=1", "trainer.total_timesteps=1000000000", "trainer.optimizer.schedule=constant"]


def environment() -> dict[str, str]:
    """The environment variables of a user who has set none of oatmill's."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OATMILL")}
    return plain | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(*arguments: str) -> list[str]:
    """The command line of `oatmill`."""
    return [sys.executable, "-m", "deploy", *arguments]


def oatmill(folder: Path, *arguments: str, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False
    )


def accept_ctrl_c() -> None:
    """Reset SIGINT: a shell starts background jobs with SIGINT ignored, and a run would keep ignoring it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Train:
    """A running `oatmill train`.

    Args:
        folder: the working folder of the command; the run's folder is `run` in it.
        arguments: the arguments after `--run-dir`.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.errors = folder / "stderr.txt"
        with (folder / "stdout.txt").open("w") as output, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command("train", "cartpole", "--run-dir", "run", *arguments),
                cwd=folder,
                env=environment(),
                stdout=output,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                preexec_fn=accept_ctrl_c,  # noqa: PLW1509  (this process has no threads)
            )

    def pids(self, role: str) -> list[int]:
        """The process ids of one role, from run.json."""
        return [process["pid"] for process in self.run_json()["processes"] if process["role"] == role]

    def run_json(self) -> dict[str, Any]:
        """The content of run.json; without processes if it does not exist yet."""
        path = self.run_dir / "run.json"
        return json.loads(path.read_text()) if path.exists() else {"processes": []}

    def events(self) -> list[dict[str, Any]]:
        """The lines of events.jsonl."""
        path = self.run_dir / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def learner_steps(self) -> int:
        """The number of reported learner steps."""
        path = self.run_dir / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def until(self, done: Callable[[], bool], within_s: float = 150.0) -> None:
        """Wait until a condition is true, while the run continues."""
        deadline = time.monotonic() + within_s
        while not done():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, f"the condition was not reached in time: {self.events()}"
            time.sleep(0.05)

    def end(self, timeout_s: float = 150.0) -> int:
        """Wait until it has ended, and return its exit code."""
        return self.process.wait(timeout_s)

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        summary: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text())
        return summary


@contextmanager
def training(folder: Path, *arguments: str) -> Iterator[Train]:
    """A run that is always ended at the end of the test, even if the test fails."""
    train = Train(folder, *arguments)
    try:
        yield train
    finally:
        if train.process.poll() is None:
            train.process.kill()
            train.process.wait(60)
        for process in processes_of(train.run_dir):
            process.kill()


def processes_of(run_dir: Path) -> list[psutil.Process]:
    """All processes of a run. They are found by the run's folder on their command lines."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(run_dir) in word for word in words):
            found.append(process)
    return found


def all_gone(run_dir: Path, within_s: float = 60.0) -> bool:
    """Whether all processes of a run end in time."""
    deadline = time.monotonic() + within_s
    while processes_of(run_dir):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def socket_folder(control: str) -> Path:
    """The folder of a local run's sockets."""
    return Path(control.removeprefix("ipc://")).parent


def accounted(ledger: dict[str, Any]) -> int:
    """The sum of the ledger's columns that must equal `produced` (G6)."""
    columns = ("trained", "queued", "in_flight", "unsent_at_death", "lost")
    return int(sum(ledger["dropped"].values()) + sum(ledger[column] for column in columns))
