"""summary.json and RunResult: every promised field, and nothing that JSON cannot hold."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from oatmill.errors import UserError
from oatmill.json_values import without_nonfinite
from recipes import cartpole
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


def line(step: int, weighted: float) -> dict[str, Any]:
    loss = {"weighted": weighted, "kl": 0.5, "terms": {"kl": {"raw": 0.5, "coef": 0.1, "weighted": 0.05}}}
    return {"learner_step": step, "losses": {"cmpo": loss}, "episode_return": {"mean": 21.0, "n": 3}, "red_flags": []}


def test_the_metrics_are_a_table_with_a_row_per_step_and_a_column_per_number(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    # Step 2 was repeated after a restart: its first line is not the run's.
    lines = [line(1, 0.1), line(2, 9.0), line(2, 0.2), line(3, 0.3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    table = composed(tmp_path).metrics()
    assert list(table["learner_step"]) == [1, 2, 3]
    assert list(table["losses.cmpo.weighted"]) == [0.1, 0.2, 0.3]
    assert set(table.columns) == {
        "learner_step",
        "red_flags",
        "losses.cmpo.weighted",
        "losses.cmpo.kl",
        "episode_return.mean",
        "episode_return.n",
    }


def test_without_pandas_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"^metrics\(\) needs pandas; pip install pandas$"):
        composed(tmp_path).metrics()


def test_a_result_and_a_run_say_in_one_line_what_they_are(tmp_path: Path) -> None:
    status = {"fleet": {"episode_return": {"mean": 480.5, "std": 12.0, "n": 100}}}
    result = composed(
        tmp_path, status=status, last_line={"env_steps": 300_000, "seconds": 85.9, "env_steps_per_second": 3508.2}
    )
    assert repr(result) == (
        "<RunResult cartpole, done: return 480.50 +- 12.00, 300,000 env steps in 85.9 s (3,508/s), red flags: none, "
        f"{tmp_path}>"
    )
    assert repr(composed(tmp_path)).startswith("<RunResult cartpole, done: return - +- -, 0 env steps in - s (-/s)")
    assert repr(cartpole.train()) == (
        "<Run cartpole: CartPole-v1, 300,000 env steps, 2 actors x 16 environments, losses ppo_critic, ppo_actor>"
    )
