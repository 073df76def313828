"""Writes the lines of metrics.jsonl to TensorBoard, Weights & Biases and MLflow, with settings and git commit.

A background thread writes them, so that no learner step waits for a disk or for another program. If
writing fails, the run goes on without these files; metrics.jsonl has all numbers.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from learner.reporting.red_flags import FLAGS
from oatmill.errors import UserError, one_line
from oatmill.git import git_commit
from oatmill.settings.base import MetricsSettings
from oatmill.settings.flat import flatten_settings

PROJECT = "oatmill"
WAITING_LINES = 10_000
"""The largest number of lines in the queue; further lines are dropped and counted."""
CLOSE_WITHIN_S = 60.0
GIT_COMMIT = "git_commit"
VIDEO = "eval_video"
RGB = 3
"""TensorBoard's number of this kind of picture."""
MLFLOW_AT_ONCE = 100
"""The largest number of parameters in one request to MLflow."""
MLFLOW_LONGEST = 6000
"""The largest number of characters of a parameter there."""

log = logging.getLogger("oatmill.learner")


class Writer(Protocol):
    """Writes numbers and videos in one tool's format."""

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of one reported learner step."""
        ...

    def video(self, env_steps: int, path: Path) -> None:
        """Write a GIF file of the evaluator."""
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
        settings: the run's settings, shown as text.
        commit: the git commit, or None.
    """

    def __init__(self, run_dir: Path, first: int, settings: Mapping[str, Any], commit: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (loads TensorBoard)

        run_dir.stat()  # SummaryWriter would create a run folder again that was deleted during the import
        self._writer: Any = SummaryWriter(str(run_dir), purge_step=first)
        for name, value in named_settings(settings, commit).items():
            self._writer.add_text(name, value, first)

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:
        """Write a scalar per number, over env steps."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, env_steps)

    def video(self, env_steps: int, path: Path) -> None:
        """Write the file as an image, which TensorBoard plays."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415

        content = path.read_bytes()
        width, height = struct.unpack("<HH", content[6:10])
        image = Summary.Image(height=height, width=width, colorspace=RGB, encoded_image_string=content)
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=VIDEO, image=image)]), env_steps)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WandbWriter:
    """Writes a Weights & Biases run to the run folder.

    It is offline unless WANDB_MODE is set; `wandb sync` uploads it.

    Args:
        run_dir: the run's folder; its name becomes the name of the run.
        settings: the run's settings, stored as the run's configuration.
        commit: the git commit, stored there, too; or None.
    """

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], commit: str | None) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":  # nothing is sent, not even crash reports
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # noqa: PLC0415  (starts a process of its own)

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.resolve().name,
            dir=str(run_dir),
            mode=cast("Any", mode),  # wandb checks it
            config={**settings, GIT_COMMIT: commit},
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="env_steps")

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:
        """Write one row, over env steps."""
        self._run.log({**numbers, "env_steps": env_steps})

    def video(self, env_steps: int, path: Path) -> None:
        """Write the file as a video, over env steps."""
        import wandb  # noqa: PLC0415

        self._run.log({VIDEO: wandb.Video(str(path), format="gif"), "env_steps": env_steps})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MlflowWriter:
    """Writes an MLflow run, with the settings as parameters.

    Args:
        run_dir: the run's folder; its name becomes the name of the run.
        settings: the run's settings.
        commit: the git commit, or None.
    """

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], commit: str | None) -> None:
        from mlflow import MlflowClient  # noqa: PLC0415
        from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

        self._metric: Any = Metric
        self._client: Any = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir.resolve()}/mlflow.db")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        self._run: str = self._client.create_run(number, run_name=run_dir.resolve().name).info.run_id
        parameters = [Param(key, value[:MLFLOW_LONGEST]) for key, value in named_settings(settings, None).items()]
        tags = [RunTag("mlflow.source.git.commit", commit)] if commit else []
        for start in range(0, len(parameters), MLFLOW_AT_ONCE):
            self._client.log_batch(self._run, params=parameters[start : start + MLFLOW_AT_ONCE], tags=tags)

    def write(self, env_steps: int, numbers: Mapping[str, float]) -> None:
        """Write a metric per number, over env steps."""
        now = round(time.time() * 1000)
        metrics = [self._metric(name, number, now, env_steps) for name, number in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def video(self, env_steps: int, path: Path) -> None:
        """Write nothing: MLflow's numbers have no videos."""

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)


@dataclass(frozen=True)
class Target:
    """A tool that can show a run's numbers.

    Attributes:
        title: the tool's name in messages.
        package: the Python package, which is also the name of the setting in `metrics` and of the
            extra.
        make: creates the writer from the run's folder, the first line's env steps, the settings and the git commit.
    """

    title: str
    package: str
    make: Callable[[Path, int, Mapping[str, Any], str | None], Writer]


TARGETS = (
    Target("TensorBoard", "tensorboard", TensorBoardWriter),
    Target("Weights & Biases", "wandb", lambda run_dir, _, settings, commit: WandbWriter(run_dir, settings, commit)),
    Target("MLflow", "mlflow", lambda run_dir, _, settings, commit: MlflowWriter(run_dir, settings, commit)),
)


def wanted_targets(metrics: MetricsSettings) -> list[Target]:
    """The tools that are enabled in the settings; with null, those that are installed.

    Raises:
        UserError: if a tool's package is not installed.
    """
    wanted = []
    for target in TARGETS:
        asked, installed = getattr(metrics, target.package), importlib.util.find_spec(target.package) is not None
        if asked and not installed:
            raise UserError(
                f"metrics.{target.package}=true needs the package {target.package}, which is not installed; "
                f"pip install 'oatmill[{target.package}]'"
            )
        if asked or (asked is None and installed):
            wanted.append(target)
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
        self._commit: str | None = None
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
        self._commit = git_commit(Path.cwd())
        writers = {target.title: self._guarded(target, line["env_steps"]) for target in self._targets}
        while line is not None:
            for title, writer in writers.items():
                writers[title] = self._written(title, writer, line)
                self._show_video(title, writers[title], line)
            line = self._lines.get()
        for title, writer in writers.items():
            self._ended(title, writer)

    def _guarded(self, target: Target, first: int) -> Writer | None:
        try:
            return target.make(self._run_dir, first, self._settings, self._commit)
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

    def _show_video(self, title: str, writer: Writer | None, line: Mapping[str, Any]) -> None:
        """Write the video of a line, if it has one; if that fails, the numbers are written all the same."""
        video = (line.get("eval_return") or {}).get("video")
        if writer is None or video is None:
            return
        try:
            writer.video(line["env_steps"], self._run_dir / video)
        except Exception as error:
            log.warning("%s: the video %s was not written: %s", title, video, one_line(error))

    @staticmethod
    def _ended(title: str, writer: Writer | None) -> None:
        try:
            if writer is not None:
                writer.close()
        except Exception as error:
            log.warning("%s was not closed: %s", title, one_line(error))


def named_settings(settings: Mapping[str, Any], commit: str | None) -> dict[str, str]:
    """Each setting and the git commit as text, by dotted name."""
    texts = {name: str(value) for name, value in flatten_settings(settings).items()}
    return texts if commit is None else {GIT_COMMIT: commit, **texts}


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
