"""What a user is told about continuing a run that has ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.checkpoint_manifest import write_manifest
from learner.settings import TrainerSettings
from oatmill.errors import UserError
from runner.continuing import check_newest_checkpoint, newest_checkpoint, way_on


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


def test_a_run_with_code_of_its_user_continues_with_trust(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", checkpoint=True, outcome="stopped")
    (run / "config.yaml").write_text("env: {kind: factory, factory: 'own:Env'}\n")
    assert way_on(run) == f"`oatmill train --resume --run-dir {run} --trust` continues it from checkpoint step-20"
    (run / "config.yaml").write_text("env: {kind: gym, id: CartPole-v1}\n")
    assert "--trust" not in way_on(run)
    (run / "config.yaml").write_text("env: [")
    assert "--trust" not in way_on(run)


def test_a_run_that_has_spent_its_budget_continues_only_with_a_larger_one(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", checkpoint=True, outcome="done", env_steps=301056)
    assert way_on(run) == (
        f"its budget is spent; `oatmill train --resume --run-dir {run} trainer.total_timesteps=N` "
        "continues it, with N above 301056"
    )


def a_checkpoint(run: Path, *, env_steps: object) -> Path:
    run = a_run(run, checkpoint=True)
    checkpoint = run / "checkpoints" / "step-20"
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    entries = {"agent": {}, "learner_step": 20, "env_steps": env_steps, "policy_version": 20}
    write_manifest(checkpoint, entries, ["model.safetensors"])
    return run


def test_a_run_whose_checkpoint_has_spent_the_budget_is_refused_at_once(tmp_path: Path) -> None:
    run = a_checkpoint(tmp_path / "run", env_steps=1000)
    check_newest_checkpoint(run, TrainerSettings(total_timesteps=1001))
    with pytest.raises(UserError, match=r"has trained 1000 env steps already; .* above that, got 1000$"):
        check_newest_checkpoint(run, TrainerSettings(total_timesteps=1000))


def test_a_damaged_or_missing_checkpoint_is_left_to_the_learner(tmp_path: Path) -> None:
    spent = TrainerSettings(total_timesteps=1)
    check_newest_checkpoint(a_run(tmp_path / "none", checkpoint=False), spent)
    check_newest_checkpoint(a_checkpoint(tmp_path / "odd", env_steps="many"), spent)
    run = a_checkpoint(tmp_path / "damaged", env_steps=1000)
    (run / "checkpoints" / "step-20" / "model.safetensors").write_bytes(b"other")
    check_newest_checkpoint(run, spent)
