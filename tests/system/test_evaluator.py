"""The evaluator of a real run: kill -9 costs training nothing, and the last checkpoint is played all the same."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.system.real_runs import SMALL, training


def test_a_run_whose_evaluator_is_killed_trains_on_and_is_evaluated_in_the_end(tmp_path: Path) -> None:
    arguments = [*SMALL, "--actors", "1", "trainer.total_timesteps=40000", "trainer.checkpoint_every=20"]
    with training(tmp_path, *arguments, "evaluator.enabled=true", "evaluator.episodes=2") as train:
        train.until(lambda: bool(train.pids("evaluator")))
        killed = train.pids("evaluator")[0]
        learner = train.pids("learner")
        os.kill(killed, signal.SIGKILL)
        train.until(lambda: bool(train.pids("evaluator")) and train.pids("evaluator") != [killed])
        assert train.pids("learner") == learner
        assert train.process.wait(240) == 0, train.errors.read_text()
    summary = json.loads((train.run_dir / "summary.json").read_text())
    events = [json.loads(line) for line in (train.run_dir / "events.jsonl").read_text().splitlines()]
    assert summary["outcome"] == "done"
    assert summary["ledger"]["lost"] == 0
    assert [event["how"] for event in events if event["event"] == "evaluator_restarted"] == ["was killed by SIGKILL"]
    assert not [event for event in events if event["event"] in {"learner_restarted", "replay_restarted", "actor_restarted"}]
    last = (train.run_dir / "checkpoints" / "latest").resolve().name
    assert summary["eval_return"]["checkpoint"] == last
    assert summary["eval_return"]["drawn"]["n"] == 2
    assert (train.run_dir / "checkpoints" / "best").exists()
