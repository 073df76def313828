"""What a user is told about continuing a run that has ended."""

from __future__ import annotations

import json
from pathlib import Path

from runner.continuing import newest_checkpoint, way_on


def a_run(folder: Path, *, checkpoint: bool, **summary: object) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    if checkpoint:
        (folder / "checkpoints" / "step-20").mkdir()
        (folder / "checkpoints" / "latest").symlink_to("step-20")
    if summary:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_run_without_a_checkpoint_is_not_said_to_continue(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", checkpoint=False, outcome="stopped")
    assert newest_checkpoint(run) == ""
    assert way_on(run) == "it has no checkpoint, so start it again in another folder"
    (run / "checkpoints" / "latest").symlink_to("step-9")
    assert newest_checkpoint(run) == "", "the link leads nowhere"


def test_a_stopped_run_and_a_killed_run_continue_from_their_checkpoint(tmp_path: Path) -> None:
    for name, summary in (("my run", {"outcome": "stopped"}), ("killed", {})):
        run = a_run(tmp_path / name, checkpoint=True, **summary)
        quoted = f"'{run}'" if " " in str(run) else run
        assert way_on(run) == f"`oatmill train --resume --run-dir {quoted}` continues it from checkpoint step-20"


def test_a_run_that_has_spent_its_budget_continues_only_with_a_larger_one(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", checkpoint=True, outcome="done", env_steps=301056)
    assert way_on(run) == (
        f"its budget is spent; `oatmill train --resume --run-dir {run} trainer.total_timesteps=N` "
        "continues it, with N above 301056"
    )
