"""The lines of metrics.jsonl in other tools' formats: TensorBoard's event files and a Weights & Biases run.

A thread of its own writes them, so that no learner step waits for a disk or for another program. What cannot be written costs
these files and never the run: metrics.jsonl has every number anyway.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from learner.reporting.red_flags import FLAGS
from oatmill.errors import UserError, one_line
from oatmill.settings.base import MetricsSettings

PROJECT = "oatmill"
WAITING_LINES = 10_000
"""Lines that may wait for the thread; further ones are left out, and counted."""
CLOSE_WITHIN_S = 60.0

log = logging.getLogger("oatmill.learner")


class Writer(Protocol):
    """Writes to one tool's files."""

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of one reported learner step."""
        ...

    def close(self) -> None:
        """Bring everything to the disk."""
        ...


class TensorBoardWriter:
    """Event files in the run's folder, so that `tensorboard --logdir runs` shows each run by its folder's name.

    Args:
        run_dir: the run's folder.
        first: env steps of the first line; what an earlier process wrote beyond it, after its last checkpoint, is hidden.
    """

    def __init__(self, run_dir: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (loads TensorBoard)

        self._writer: Any = SummaryWriter(str(run_dir), purge_step=first)

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:
        """A scalar for each number, over env steps."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, env_steps)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandbWriter:
    """A Weights & Biases run below the run's folder, offline unless WANDB_MODE says otherwise; `wandb sync` uploads it.

    Args:
        run_dir: the run's folder, whose name is the run's.
        settings: all of the run's, kept as its configuration.
    """

    def __init__(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":  # nothing leaves the machine, crash reports neither
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # noqa: PLC0415  (starts a process of its own)

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.resolve().name,
            dir=str(run_dir),
            mode=cast("Any", mode),  # wandb itself says which it does not know
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="env_steps")

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:
        """One row, over env steps."""
        self._run.log({**numbers, "env_steps": env_steps})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


@dataclass(frozen=True)
class Target:
    """A tool that numbers may go to.

    Attributes:
        title: what a message calls it.
        package: what it needs, which is also its setting below `metrics` and its extra of oatmill's.
        make: builds its writer, of the run's folder, the first line's env steps and the run's settings.
    """

    title: str
    package: str
    make: Callable[[Path, int, Mapping[str, Any]], Writer]


TARGETS = (
    Target("TensorBoard", "tensorboard", lambda run_dir, first, _: TensorBoardWriter(run_dir, first)),
    Target("Weights & Biases", "wandb", lambda run_dir, _, settings: WandbWriter(run_dir, settings)),
)


def wanted_targets(metrics: MetricsSettings) -> list[Target]:
    """The tools that a run's settings ask for.

    Raises:
        UserError: if one's package is not installed.
    """
    wanted = [target for target in TARGETS if getattr(metrics, target.package)]
    for target in wanted:
        if importlib.util.find_spec(target.package) is None:
            raise UserError(
                f"metrics.{target.package}=true needs the package {target.package}, which is not here; "
                f"pip install 'oatmill[{target.package}]'"
            )
    return wanted


class BackgroundWriters:
    """Hands lines to a thread that writes them; rank 0 only.

    Args:
        targets: the tools.
        run_dir: the run's folder.
        settings: all of the run's.
    """

    def __init__(self, targets: Sequence[Target], run_dir: Path, settings: Mapping[str, Any]) -> None:
        self.left_out = 0
        self._targets, self._run_dir, self._settings = targets, run_dir, settings
        self._lines: queue.Queue[Mapping[str, Any] | None] = queue.Queue(WAITING_LINES)
        self._thread = threading.Thread(target=self._work, name="writers", daemon=True)
        self._closed = not targets
        if targets:
            self._thread.start()

    def write(self, line: Mapping[str, Any]) -> None:
        """Take a line of metrics.jsonl; never waits."""
        if self._closed:
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.left_out += 1

    def close(self) -> None:
        """Write what waits, within a bounded time. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            self._lines.put(None, timeout=CLOSE_WITHIN_S)
        except queue.Full:
            log.warning("the last %d lines do not reach %s: it takes none any more", self._lines.qsize(), self._titles())
            return
        self._thread.join(CLOSE_WITHIN_S)
        if self.left_out:
            log.warning("%d lines did not reach %s, which was too slow; metrics.jsonl has them", self.left_out, self._titles())

    def _titles(self) -> str:
        return " and ".join(target.title for target in self._targets)

    def _work(self) -> None:
        # Begun by the first line: only then it is known at which env step.
        line = self._lines.get()
        if line is None:
            return
        writers = {target.title: self._guarded(target, line["env_steps"]) for target in self._targets}
        while line is not None:
            for title, writer in writers.items():
                writers[title] = self._written(title, writer, line)
            line = self._lines.get()
        for title, writer in writers.items():
            self._ended(title, writer)

    def _guarded(self, target: Target, first: int) -> Writer | None:
        try:
            return target.make(self._run_dir, first, self._settings)
        except Exception as error:
            log.warning("%s is not written: %s", target.title, one_line(error))
            return None

    @staticmethod
    def _written(title: str, writer: Writer | None, line: Mapping[str, Any]) -> Writer | None:
        """The writer, or None from its first failure on."""
        if writer is None:
            return None
        try:
            writer.write(line["env_steps"], dict(numbers_of(line)))
        except Exception as error:
            log.warning("%s is not written any more: %s", title, one_line(error))
            return None
        return writer

    @staticmethod
    def _ended(title: str, writer: Writer | None) -> None:
        try:
            if writer is not None:
                writer.close()
        except Exception as error:
            log.warning("%s was not closed: %s", title, one_line(error))


def numbers_of(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a line of metrics.jsonl by path, such as `losses/cmpo/kl`; red flags as 0 or 1, null left out."""
    for name, value in line.items():
        if name == "red_flags" and not prefix:
            yield from ((f"red_flags/{flag}", float(flag in value)) for flag in FLAGS)
        elif isinstance(value, Mapping):
            yield from numbers_of(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and (prefix or name != "env_steps"):
            yield f"{prefix}{name}", float(value)
