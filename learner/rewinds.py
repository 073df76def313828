"""Handles updates that are not finite: keeps the batch and, after several in a row, rewinds the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from learner.checkpoints.bad_batches import keep_batch
from learner.checkpoints.keeper import Keeper
from learner.progress import Progress
from learner.ranks.reduce import Ranks
from learner.reporting.rank_reporting import RankReporting
from learner.setup import LearnerConfig
from learner.update.updater import Record
from oatmill.errors import RunError, UserError
from protocol.data.batch import Batch

log = logging.getLogger("oatmill.learner")

MAX_BAD_STEPS = 3
ADVICE = "lower trainer.optimizer.learning_rate or a coefficient"


class Rewinds:
    """Counts learner steps that were not finite, and loads the newest checkpoint again.

    All ranks must call the same methods.

    Args:
        config: the learner's configuration.
        ranks: the group of ranks.
        keeper: reads the checkpoints.
        reporting: records every bad batch and every rewind.

    Attributes:
        in_a_row: the number of rewinds since the last saved checkpoint.
        mark: the replay log's position in the last loaded checkpoint; None if none was loaded.
    """

    def __init__(self, config: LearnerConfig, ranks: Ranks, keeper: Keeper, reporting: RankReporting) -> None:
        self._config, self._ranks, self._keeper, self._reporting = config, ranks, keeper, reporting
        self._bad_steps = 0
        self.in_a_row = 0
        self.mark: Mapping[str, Any] | None = None

    def load(self) -> Progress:
        """Load the newest readable checkpoint on all ranks, and report those that are damaged.

        Raises:
            UserError: if there is none.
        """
        restored = self._keeper.restore(self._reporting.load)
        for line in restored.passed_over:
            text = f"{line.partition(';')[0]}; continuing from {restored.path.name} instead"
            self._reporting.event("checkpoint_damaged", text=text)
        self.mark = restored.replay
        return restored.progress

    def note(self, batch: Batch, record: Record, learner_step: int, *, finite: bool, sound: bool) -> bool:
        """Process the result of one learner step; a batch with non-finite updates is written to a file.

        Args:
            batch: this rank's part of the batch.
            record: the learner step's measurements.
            learner_step: the learner step's number.
            finite: whether every update was finite on all ranks.
            sound: whether the weights are finite on all ranks.

        Returns:
            Whether the run must be rewound to the last checkpoint.
        """
        self._bad_steps = 0 if finite else self._bad_steps + 1
        if not finite:
            self._set_aside(batch, record, learner_step)
        return not sound or self._bad_steps >= MAX_BAD_STEPS

    def _set_aside(self, batch: Batch, record: Record, learner_step: int) -> None:
        path = keep_batch(self._config.run_dir, batch, rank=self._ranks.rank, world_size=self._ranks.world_size)
        culprits = ", ".join(sorted(record.nonfinite)) or "weights"
        where = f"kept in {path.parent}" if path else "not kept, because there is no space"
        log.warning("learner step %d: %s not finite; the batch is %s", learner_step, culprits, where)
        self._reporting.event(
            "batch_not_finite",
            learner_step=learner_step,
            nonfinite=dict(record.nonfinite),
            skipped_updates=record.skipped,
            updates=len(record.norms),
            file=str(path) if path else None,
        )

    def rewind(self, before: Progress, *, sound: bool, reopen: Callable[[Progress], None]) -> Progress:
        """Load the last checkpoint. Policy versions and the clock continue from the current progress.

        Args:
            before: the progress before the rewind.
            sound: whether the weights were finite.
            reopen: connects to ingest again, given the checkpoint's progress.

        Returns:
            The progress after the rewind.

        Raises:
            RunError: if there is no checkpoint, or `trainer.max_rewinds` rewinds in a row did not help.
        """
        why = f"{MAX_BAD_STEPS} learner steps in a row were not finite" if sound else "the weights are not finite"
        if self.in_a_row >= self._config.trainer.max_rewinds:
            raise RunError(
                f"{why}, after {self.in_a_row} rewinds to the last checkpoint in a row; {ADVICE}, or raise trainer.max_rewinds"
            )
        try:
            restored = self.load()
        except UserError:
            raise RunError(f"{why}, and there is no checkpoint to rewind to; {ADVICE}") from None
        self.in_a_row, self._bad_steps = self.in_a_row + 1, 0
        reopen(restored)
        text = f"{why}: rewinding from learner step {before.learner_step} to checkpoint step-{restored.learner_step}"
        log.warning("%s", text)
        self._reporting.event(
            "rewound", text=text, from_step=before.learner_step, to_step=restored.learner_step, rewinds=self.in_a_row
        )
        return restored._replace(policy_version=before.policy_version + 1, seconds=before.seconds)
