"""When checkpoints are written, what happens when one cannot be, and how all ranks go back to the same one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from learner.checkpoints.files import Beside, Restored, restore, save
from learner.distributed import Ranks
from learner.progress import Progress
from learner.update.updater import Updater
from oatmill.errors import one_line
from protocol.channels import BatchClient

log = logging.getLogger("oatmill.learner")

SNAPSHOT_WITHIN_S = 10.0
"""A replay server that was just killed is back within this time."""


class Keeper:
    """One rank's part in writing and reading the run's checkpoints.

    Args:
        run_dir: the run's folder.
        keep: how many of the newest checkpoints stay.
        updater: holds what is saved.
        ranks: all of which take part; rank 0 writes.
        settings: the run's, for the manifests.

    Attributes:
        failure: why the last checkpoint could not be written; empty if it could.
    """

    def __init__(
        self, run_dir: Path, *, keep: int, updater: Updater, ranks: Ranks, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = run_dir / "checkpoints"
        self.failure = ""
        self._keep, self._updater, self._ranks, self._settings = keep, updater, ranks, settings or {}
        self._saved_at = -1

    def save(
        self,
        progress: Progress,
        *,
        state: Callable[[], Mapping[str, Any]],
        episode_return: Mapping[str, Any] | None = None,
        batches: BatchClient | None = None,
    ) -> bool:
        """Write a checkpoint; call it on all ranks. A disk that is full does not end the run: the checkpoint before stays.

        Args:
            progress: where the run is.
            state: gives what the learner carries from step to step beside the networks.
            episode_return: of the last episodes.
            batches: the line to ingest, which is asked for the point in its log that belongs to the checkpoint.

        Returns:
            Whether it was written.
        """
        if self._saved_at == progress.learner_step:
            return True
        generators = self._ranks.gather(self._updater.context.generator.get_state())
        self.failure = ""
        if self._ranks.first:
            mark = self._mark(progress, batches)
            self._write(progress, Beside(generators, state(), self._settings, episode_return, mark))
            if batches is not None and mark is not None and not self.failure:
                batches.commit(mark["cursor"])
        (written,) = self._ranks.lowest(not self.failure)
        if written:
            self._saved_at = progress.learner_step
        return bool(written)

    def _mark(self, progress: Progress, batches: BatchClient | None) -> Mapping[str, Any] | None:
        """The point in the replay server's log that holds what has been trained on; None if the server does not say."""
        mark = None if batches is None else batches.snapshot(progress.learner_step, SNAPSHOT_WITHIN_S)
        if batches is not None and mark is None:
            log.warning("checkpoint step-%d has no point in the replay server's log: it did not answer", progress.learner_step)
        return mark

    def _write(self, progress: Progress, beside: Beside) -> None:
        try:
            save(self.folder, self._updater, progress, keep=self._keep, beside=beside)
        except (OSError, SafetensorError) as error:
            self.failure = one_line(error)
            log.warning("checkpoint step-%d could not be written: %s", progress.learner_step, self.failure)

    def restore(self, accept: Callable[[Mapping[str, Any]], None]) -> Restored:
        """Load the newest checkpoint that every rank can load; call it on all ranks.

        Args:
            accept: takes in what `save` was given as `state`. A checkpoint whose state it cannot take is passed over, too.

        Raises:
            UserError: if there is none.
        """
        restored = restore(
            self.folder,
            self._updater,
            rank=self._ranks.rank,
            lowest=lambda number: self._ranks.lowest(number)[0],
            accept=accept,
        )
        for line in restored.passed_over:
            log.warning("passed over a checkpoint: %s", line)
        self._saved_at = restored.progress.learner_step
        return restored

    def sweep(self) -> None:
        """Remove what a crash while saving has left."""
        if not self._ranks.first:
            return
        for left in self.folder.glob("step-*.tmp"):
            log.info("removing %s, which a crash while saving has left", left.name)
            shutil.rmtree(left, ignore_errors=True)
