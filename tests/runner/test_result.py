"""summary.json and RunResult: every promised field, and nothing that JSON cannot hold."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from oatmill.json_values import without_nonfinite
from runner.result import Identity, RunResult, compose

PROMISED = {
    "run_dir",
    "recipe",
    "seed",
    "preset",
    "env_steps",
    "learner_steps",
    "seconds",
    "env_steps_per_second",
    "episode_return",
    "losses",
    "entropy",
    "explained_variance",
    "policy_lag",
    "red_flags",
    "ledger",
    "versions",
}


def composed(run_dir: Path, **changes: Any) -> RunResult:
    given: dict[str, Any] = {"outcome": "done", "error": None, "last_line": None, "status": {}, "actor_restarts": 0}
    return compose(Identity(run_dir, "cartpole", 7, None), **given | changes)


def test_every_promised_field_is_there_even_if_nothing_was_trained(tmp_path: Path) -> None:
    summary = json.loads(json.dumps(composed(tmp_path).to_dict(), allow_nan=False))
    assert summary.keys() >= PROMISED
    assert summary.keys() == {field.name for field in dataclasses.fields(RunResult)}
    assert (summary["env_steps"], summary["episode_return"]) == (0, {"mean": None, "std": None, "n": 0})
    assert (summary["recipe"], summary["seed"]) == ("cartpole", 7)


def test_the_learner_says_what_was_learned_and_the_hub_what_was_played(tmp_path: Path) -> None:
    learner = {"env_steps": 640, "learner_steps": 10, "losses": {"cmpo": {"raw": 1.0}}, "episode_return": {"mean": 1.0, "n": 1}}
    (tmp_path / "learner.json").write_text(json.dumps(learner))
    fleet = {"episode_return": {"mean": 2.0, "std": 0.5, "n": 3}, "episode_length": 9.0, "statistics": {"hearts": 4.0}}
    result = composed(tmp_path, status={"fleet": fleet, "ledger": {"produced": 10}})
    assert (result.env_steps, result.learner_steps, result.losses) == (640, 10, {"cmpo": {"raw": 1.0}})
    assert result.episode_return == {"mean": 2.0, "std": 0.5, "n": 3}  # newer than the learner's
    assert (result.episode_length, result.episode_statistics, result.ledger) == (9.0, {"hearts": 4.0}, {"produced": 10})


def test_a_learner_that_died_leaves_its_last_report(tmp_path: Path) -> None:
    line = {"learner_step": 5, "env_steps": 320, "losses": {"cmpo": {"raw": 1.0}}, "red_flags": ["loss_spike"], "seconds": 2.0}
    result = composed(tmp_path, outcome="failed", error="the learner process was killed by SIGKILL", last_line=line)
    assert (result.outcome, result.learner_steps, result.env_steps) == ("failed", 5, 320)
    assert result.red_flags == [{"flag": "loss_spike", "why": ""}]


def test_numbers_that_are_not_finite_become_null() -> None:
    assert without_nonfinite({"a": [math.nan, 1.0, (math.inf, "x")], "b": {"c": -math.inf, "d": True}}) == {
        "a": [None, 1.0, [None, "x"]],
        "b": {"c": None, "d": True},
    }


def test_versions_name_what_numbers_depend_on(tmp_path: Path) -> None:
    assert {"python", "torch", "numpy", "pyzmq", "gymnasium"} <= composed(tmp_path).versions.keys()
