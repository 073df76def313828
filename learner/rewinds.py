"""What happens when updates are not finite: the batch is set aside, and after several in a row the run goes back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from learner.checkpoints.bad_batches import keep_batch
from learner.checkpoints.keeper import Keeper
from learner.distributed import Ranks
from learner.progress import Progress
from learner.reporting.reporting import Reporting
from learner.setup import LearnerConfig
from learner.update.updater import Record
from oatmill.errors import RunError, UserError
from protocol.data.batch import Batch

log = logging.getLogger("oatmill.learner")

MAX_BAD_STEPS = 3
ADVICE = "lower trainer.optimizer.learning_rate or a coefficient"


class Rewinds:
    """Counts learner steps that were not finite, and loads the newest checkpoint again. Every rank calls the same methods.

    Args:
        config: of the learner.
        ranks: which rank this is.
        keeper: reads the checkpoints.
        reporting: is told of every bad batch and every rewind.

    Attributes:
        in_a_row: rewinds since the last checkpoint was saved.
        mark: the position in the replay log of the checkpoint that was loaded last; None if none was.
    """

    def __init__(self, config: LearnerConfig, ranks: Ranks, keeper: Keeper, reporting: Reporting) -> None:
        self._config, self._ranks, self._keeper, self._reporting = config, ranks, keeper, reporting
        self._bad_steps = 0
        self.in_a_row = 0
        self.mark: Mapping[str, Any] | None = None

    def load(self) -> Progress:
        """Load the newest checkpoint that can be read, on all ranks, and report those that cannot.

        Raises:
            UserError: if there is none.
        """
        restored = self._keeper.restore(self._reporting.load)
        for line in restored.passed_over:
            text = f"{line.partition(';')[0]}; going on from {restored.path.name} instead"
            self._reporting.event("checkpoint_damaged", text=text)
        self.mark = restored.replay
        return restored.progress

    def note(self, batch: Batch, record: Record, learner_step: int, *, finite: bool, sound: bool) -> bool:
        """Take in one learner step; a batch that was not finite is kept in a file.

        Args:
            batch: the batch of this rank.
            record: what the update reported.
            learner_step: its number.
            finite: whether every update was finite, on all ranks.
            sound: whether the weights are finite, on all ranks.

        Returns:
            Whether the run has to go back to the last checkpoint.
        """
        self._bad_steps = 0 if finite else self._bad_steps + 1
        if not finite:
            self._set_aside(batch, record, learner_step)
        return not sound or self._bad_steps >= MAX_BAD_STEPS

    def _set_aside(self, batch: Batch, record: Record, learner_step: int) -> None:
        path = keep_batch(self._config.run_dir, batch, rank=self._ranks.rank, world_size=self._ranks.world_size)
        culprits = ", ".join(sorted(record.nonfinite)) or "weights"
        where = f"kept in {path.parent}" if path else "not kept, for there is no room"
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
        """Load the last checkpoint with everything in it. Versions and the clock continue from where the run was.

        Args:
            before: where the run was.
            sound: whether the weights were finite.
            reopen: connects to ingest again, from the checkpoint's progress.

        Returns:
            Where the run is now.

        Raises:
            RunError: if there is no checkpoint, or `trainer.max_rewinds` rewinds in a row did not help.
        """
        why = f"{MAX_BAD_STEPS} learner steps in a row were not finite" if sound else "the weights are not finite"
        if self.in_a_row >= self._config.trainer.max_rewinds:
            raise RunError(
                f"{why}, after going back to the last checkpoint {self.in_a_row} times in a row; {ADVICE}, or raise "
                "trainer.max_rewinds"
            )
        try:
            restored = self.load()
        except UserError:
            raise RunError(f"{why}, and there is no whole checkpoint to go back to; {ADVICE}") from None
        self.in_a_row, self._bad_steps = self.in_a_row + 1, 0
        reopen(restored)
        text = f"{why}: going back from learner step {before.learner_step} to checkpoint step-{restored.learner_step}"
        log.warning("%s", text)
        self._reporting.event(
            "rewound", text=text, from_step=before.learner_step, to_step=restored.learner_step, rewinds=self.in_a_row
        )
        return restored._replace(policy_version=before.policy_version + 1, seconds=before.seconds)
