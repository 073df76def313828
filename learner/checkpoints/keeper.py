"""Saves and restores checkpoints on all ranks together, and handles failed writes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from agent.checkpoint_manifest import LATEST
from learner.checkpoints.files import Beside, Restored, restore, save
from learner.progress import Progress
from learner.ranks.reduce import Ranks
from learner.update.updater import Updater
from oatmill.errors import one_line
from protocol.channels import BatchClient

log = logging.getLogger("oatmill.learner")

MARK_WITHIN_S = 10.0
"""A replay server that was killed restarts within this time."""


class Keeper:
    """Saves and restores the run's checkpoints; every rank has one.

    Args:
        run_dir: the run's folder.
        keep: the number of newest checkpoints to keep.
        updater: has the networks and the optimiser.
        ranks: the group of ranks; rank 0 writes.
        settings: the run's settings, for the manifests.

    Attributes:
        failure: why the last checkpoint could not be written; empty if it was written.
    """

    def __init__(
        self, run_dir: Path, *, keep: int, updater: Updater, ranks: Ranks, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = run_dir / "checkpoints"
        self.failure = ""
        self._keep, self._updater, self._ranks, self._settings = keep, updater, ranks, settings or {}
        self._saved_at = -1

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a complete checkpoint."""
        return (self.folder / LATEST).exists()

    def save(
        self,
        progress: Progress,
        *,
        state: Callable[[], Mapping[str, Any]],
        episode_return: Mapping[str, Any] | None = None,
        batches: BatchClient | None = None,
    ) -> bool:
        """Write a checkpoint; call it on all ranks. On a full disk the run goes on without it.

        Args:
            progress: the run's progress.
            state: returns the rest of the learner's state, as JSON values.
            episode_return: mean, std and n of the last episodes' returns.
            batches: the connection to the replay server, which is asked for its log's current position.

        Returns:
            Whether the checkpoint was written.
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
        """The position in the replay server's log up to which data has been trained on, or None."""
        mark = None if batches is None else batches.log_mark(progress.learner_step, MARK_WITHIN_S)
        if batches is not None and mark is None:
            log.warning(
                "checkpoint step-%d has no position in the replay server's log: the server did not answer",
                progress.learner_step,
            )
        return mark

    def _write(self, progress: Progress, beside: Beside) -> None:
        try:
            save(self.folder, self._updater, progress, keep=self._keep, beside=beside)
        except (OSError, SafetensorError) as error:
            self.failure = one_line(error)

    def restore(self, accept: Callable[[Mapping[str, Any]], None]) -> Restored:
        """Load the newest checkpoint that every rank can load; call it on all ranks.

        Args:
            accept: called with the state that was given to `save`. If it raises, the checkpoint is
                skipped.

        Raises:
            UserError: if no checkpoint can be loaded.
        """
        restored = restore(
            self.folder,
            self._updater,
            rank=self._ranks.rank,
            lowest=lambda number: self._ranks.lowest(number)[0],
            accept=accept,
        )
        for line in restored.passed_over:
            log.warning("skipped a checkpoint: %s", line)
        self._saved_at = restored.progress.learner_step
        return restored

    def sweep(self) -> None:
        """Remove the partial checkpoints that a crash has left."""
        if not self._ranks.first:
            return
        for left in self.folder.glob("step-*.tmp"):
            log.info("removing the partial checkpoint %s, left by a crash", left.name)
            shutil.rmtree(left, ignore_errors=True)
