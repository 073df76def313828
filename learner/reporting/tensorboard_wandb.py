"""Writes the lines of metrics.jsonl to TensorBoard event files and to a Weights & Biases run.

A background thread writes them, so that no learner step waits for a disk or for another program. If
writing fails, the run goes on without these files; metrics.jsonl has all numbers.
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
"""The largest number of lines in the queue; further lines are dropped and counted."""
CLOSE_WITHIN_S = 60.0

log = logging.getLogger("oatmill.learner")


class Writer(Protocol):
    """Writes numbers in one tool's format."""

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of one reported learner step."""
        ...

    def close(self) -> None:
        """Write everything to the disk."""
        ...


class TensorBoardWriter:
    """Writes event files to the run folder; `tensorboard --logdir runs` shows all runs by folder name.

    Args:
        run_dir: the run's folder.
        first: env steps of the first line. TensorBoard hides later points of an earlier process, which
            it wrote after its last checkpoint.
    """

    def __init__(self, run_dir: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (loads TensorBoard)

        self._writer: Any = SummaryWriter(str(run_dir), purge_step=first)

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:
        """Write a scalar per number, over env steps."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, env_steps)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WandbWriter:
    """Writes a Weights & Biases run to the run folder.

    It is offline unless WANDB_MODE is set; `wandb sync` uploads it.

    Args:
        run_dir: the run's folder; its name becomes the name of the run.
        settings: the run's settings, stored as the run's configuration.
    """

    def __init__(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":  # nothing is sent, not even crash reports
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # noqa: PLC0415  (starts a process of its own)

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.resolve().name,
            dir=str(run_dir),
            mode=cast("Any", mode),  # wandb checks it
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="env_steps")

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:
        """Write one row, over env steps."""
        self._run.log({**numbers, "env_steps": env_steps})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


@dataclass(frozen=True)
class Target:
    """A tool that can show a run's numbers.

    Attributes:
        title: the tool's name in messages.
        package: the Python package, which is also the name of the setting in `metrics` and of the
            extra.
        make: creates the writer from the run's folder, the first line's env steps and the settings.
    """

    title: str
    package: str
    make: Callable[[Path, int, Mapping[str, Any]], Writer]


TARGETS = (
    Target("TensorBoard", "tensorboard", lambda run_dir, first, _: TensorBoardWriter(run_dir, first)),
    Target("Weights & Biases", "wandb", lambda run_dir, _, settings: WandbWriter(run_dir, settings)),
)


def wanted_targets(metrics: MetricsSettings) -> list[Target]:
    """The tools that are enabled in the settings.

    Raises:
        UserError: if a tool's package is not installed.
    """
    wanted = [target for target in TARGETS if getattr(metrics, target.package)]
    for target in wanted:
        if importlib.util.find_spec(target.package) is None:
            raise UserError(
                f"metrics.{target.package}=true needs the package {target.package}, which is not installed; "
                f"pip install 'oatmill[{target.package}]'"
            )
    return wanted


class BackgroundWriters:
    """Passes lines to a thread that writes them; rank 0 only.

    Args:
        targets: the enabled tools.
        run_dir: the run's folder.
        settings: the run's settings.
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
        """Queue a line of metrics.jsonl; never blocks."""
        if self._closed:
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.left_out += 1

    def close(self) -> None:
        """Write the queued lines and close the files, within a time limit. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            self._lines.put(None, timeout=CLOSE_WITHIN_S)
        except queue.Full:
            log.warning("the last %d lines were not written to %s: it does not respond", self._lines.qsize(), self._titles())
            return
        self._thread.join(CLOSE_WITHIN_S)
        if self.left_out:
            log.warning("%d lines were not written to %s, which was too slow; see metrics.jsonl", self.left_out, self._titles())

    def _titles(self) -> str:
        return " and ".join(target.title for target in self._targets)

    def _work(self) -> None:
        # Writers are created at the first line, which has the env step at which they start.
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
        """Write a line; returns the writer, or None after an error."""
        if writer is None:
            return None
        try:
            writer.write(line["env_steps"], dict(numbers_of(line)))
        except Exception as error:
            log.warning("%s is no longer written: %s", title, one_line(error))
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
    """All numbers of a line of metrics.jsonl by path, such as `losses/cmpo/kl`.

    Red flags are 0 or 1; null is left out.
    """
    for name, value in line.items():
        if name == "red_flags" and not prefix:
            yield from ((f"red_flags/{flag}", float(flag in value)) for flag in FLAGS)
        elif isinstance(value, Mapping):
            yield from numbers_of(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and (prefix or name != "env_steps"):
            yield f"{prefix}{name}", float(value)
