"""A learner over recorded batches: `python -m tests.learner.checkpoints.resume_process FOLDER BATCHES CASE ...`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learner.checkpoints.keeper import Keeper
from learner.progress import Progress
from learner.reporting.rank_reporting import RankReporting
from learner.running_statistics import ObservationStatistics
from learner.setup import LearnerConfig, make_updater
from oatmill.settings.base import MetricsSettings
from protocol.data.batch import Batch
from tests.learner.worlds import ONE, learn, make_spec, make_trainer

STEPS, SAVED_AT = 7, 3
MUESLI = {"losses.ppo_actor.enabled": False, "losses.muesli_pg.enabled": True, "returns": "retrace", "on_red_flag": "reduce"}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "baseline": ("baseline", {}, {}),
    "full": ("full", {"balance": "gradient_share"}, {"value_head": "categorical"}),
    "normalised": ("baseline", {"normalize_returns": True}, {"normalize_observations": True}),
    # 40 actions are drawn from the prior: the random numbers must go on as well.
    "paper": ("full", MUESLI, {"core": "lstm", "sizes": (40,), "value_head": "categorical"}),
}


def read_batch(path: Path) -> Batch:
    """A batch that was recorded with `numpy.savez`."""
    with np.load(path, allow_pickle=False) as loaded:
        return Batch(batch_id=0, learner_step=0, **dict(loaded))


def train(folder: Path, batches: Path, case: str, *, resume: bool) -> None:
    """Train on the recorded batches as the learner's loop does, with checkpoints after `SAVED_AT` and `STEPS`."""
    torch.set_num_threads(1)
    arm, changes, settings = CASES[case]
    spec = make_spec(**settings)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = MetricsSettings(gradient_every=10)  # not in every learner step: when the next is due must be known
    config = LearnerConfig(make_trainer(arm, changes), spec.settings, metrics, {}, "", folder)
    updater = make_updater(config, spec, ONE)
    reporting = RankReporting(config, ONE, updater, spec, lambda: True)
    statistics = ObservationStatistics(updater.context.model, ONE.reducer)
    keeper = Keeper(folder, keep=2, updater=updater, ranks=ONE)
    progress = Progress()
    if resume:
        restored = keeper.restore(lambda _state: None)
        reporting.load(restored.state)
        progress = restored.progress
    while progress.learner_step < STEPS:
        step = progress.learner_step + 1
        rate = 0.01 / step
        batch = read_batch(batches / f"{case}-{step}.npz")
        statistics.before_training(batch)
        if updater.context.reward_scale is not None:
            updater.context.reward_scale.update(batch)
        record = learn(updater, batch, learning_rate=rate)
        statistics.after_training(batch)
        progress = Progress(step, 42 * step, step, 0.5 * step)
        lag = np.ones(6, np.int64)
        reporting.note(record, progress, lag=lag, replayed_lag=lag[:0], rate=rate)
        reporting.report(progress, rate=rate, fleet={})
        if step in {SAVED_AT, STEPS}:
            assert keeper.save(progress, state=reporting.state)


def main() -> None:
    """Go on with every case."""
    folder, batches, *cases = sys.argv[1:]
    for case in cases:
        train(Path(folder) / case, Path(batches), case, resume=True)


if __name__ == "__main__":
    main()
