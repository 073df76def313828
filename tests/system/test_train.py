"""A whole run with real processes: its files, its output, and how it is resumed."""

from __future__ import annotations

import json
import random
import re
import stat
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.fuzz_run_folder import damages
from tests.system.real_runs import ROOT, SMALL, accounted, oatmill, processes_of, socket_folder

LOSSES = ["ppo_critic", "cmpo", "ppo_actor", "dynamics", "muesli_model"]
# 40 batches of 8 trajectories of 64 steps.
BUDGET = 20_480


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def summary(place: Path) -> dict[str, Any]:
    """The output of `oatmill train --json` for a short run with all five losses."""
    shown = oatmill(
        place,
        *("train", "cartpole", "--run-dir", "run", "--preset", "conservative", "--seed", "3", "--json"),
        *(*SMALL, f"trainer.total_timesteps={BUDGET}", "trainer.checkpoint_every=20", "metrics.report_every=10"),
    )
    assert shown.returncode == 0, shown.stderr
    printed: dict[str, Any] = json.loads(shown.stdout)
    printed["stderr"] = shown.stderr
    return printed


def test_the_summary_is_printed_alone_on_stdout_and_kept(place: Path, summary: dict[str, Any]) -> None:
    kept = json.loads((place / "run" / "summary.json").read_text())
    assert kept == {name: value for name, value in summary.items() if name != "stderr"}
    assert (kept["recipe"], kept["preset"], kept["seed"], kept["outcome"]) == ("cartpole", "conservative", 3, "done")
    assert (kept["env_steps"], kept["learner_steps"]) == (BUDGET, 40)
    assert kept["env_steps_per_second"] > 0
    assert kept["episode_return"]["n"] > 0
    assert list(kept["losses"]) == LOSSES
    for loss in kept["losses"].values():
        assert {"raw", "coef", "weighted", "share", "gradient_norm", "gradient_share"} <= loss.keys()
        assert loss["weighted"] == pytest.approx(loss["raw"] * loss["coef"])
    assert sum(loss["share"] for loss in kept["losses"].values()) == pytest.approx(1)


def test_every_trajectory_is_accounted_for(summary: dict[str, Any]) -> None:
    ledger = summary["ledger"]
    assert ledger["trained"] == 40 * 8
    assert ledger["produced"] == accounted(ledger)
    assert ledger["lost"] == 0


def test_the_run_folder_can_be_read(place: Path, summary: dict[str, Any]) -> None:
    run = place / "run"
    assert summary["run_dir"] == str(run)
    assert list(yaml.safe_load((run / "config.yaml").read_text())) == [
        "env",
        "agent",
        "actors",
        "replay",
        "trainer",
        "metrics",
        "evaluator",
    ]
    assert "muesli_model (loss)" in (run / "plan.txt").read_text()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["learner_step"] for line in lines] == [1, 10, 20, 30, 40]  # the first, every tenth and the last
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "latest", "step-20", "step-40"]
    assert (run / "checkpoints" / "latest").resolve().name == "step-40"
    assert {path.name for path in (run / "logs").iterdir()} == {
        "replay-0.log",
        "supervisor-0.log",
        "learner-0.log",
        "actor-0.log",
        "actor-1.log",
    }
    events = [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert (events[0], events[-1]) == ("started", "ended")
    assert (events.count("actor_joined"), events.count("actor_left")) == (2, 2)
    assert (place / "runs" / "latest").resolve() == run


def test_the_guide_names_each_file_of_the_run_folder(summary: dict[str, Any]) -> None:
    rows = [
        line.split("|")[1] for line in (ROOT / "docs/getting-started.md").read_text().splitlines() if line.startswith("| `")
    ]
    named = [name.replace("step-N", "step-*").rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)]
    run = Path(summary["run_dir"])
    found = [path.relative_to(run) for path in (*run.iterdir(), *(run / "checkpoints").iterdir()) if path.name != "checkpoints"]
    assert [str(path) for path in found if not any(fnmatch(str(path), name) for name in named)] == []


def test_nothing_is_left_running_or_listening(place: Path, summary: dict[str, Any]) -> None:
    run = json.loads((place / "run" / "run.json").read_text())
    assert stat.S_IMODE((place / "run" / "run.json").stat().st_mode) == 0o600
    assert run["processes"] == []
    assert processes_of(Path(summary["run_dir"])) == []
    assert not socket_folder(run["control"]).exists()


def test_the_result_is_shown_on_stderr(summary: dict[str, Any]) -> None:
    said = summary["stderr"]
    assert "the random policy gets 22" in said
    assert f"env steps       {BUDGET:,} in 40 learner steps" in said
    for loss in LOSSES:
        assert f"\n{loss}" in said
    assert f"produced {summary['ledger']['produced']} = trained 320" in said
    assert f"run folder      {summary['run_dir']}" in said
    assert "\x1b" not in said


def test_the_checkpoint_can_be_played_with(place: Path, summary: dict[str, Any]) -> None:
    shown = oatmill(place, "eval", "runs/latest", "--episodes", "3", "--json")
    assert shown.returncode == 0, shown.stderr
    result = json.loads(shown.stdout)
    assert (result["env_steps"], result["episode_return"]["n"]) == (summary["env_steps"], 3)


def test_a_run_continues_from_its_newest_checkpoint_with_its_own_settings(place: Path, summary: dict[str, Any]) -> None:
    longer = BUDGET + 10 * 8 * 64
    refused = oatmill(place, "train", "cartpole", "--run-dir", "run")
    assert refused.returncode == 2
    assert "exists and is not empty; choose another --run-dir, or continue it with --resume" in refused.stderr
    before = (place / "run" / "summary.json").read_text()
    logs = {log: log.stat().st_mtime_ns for log in (place / "run" / "logs").iterdir()}
    spent = oatmill(place, "train", "cartpole", "--resume", "trainer.epochs=2")
    assert spent.returncode == 2
    assert spent.stderr.startswith("oatmill: error: the checkpoint has trained 20480 env steps already")
    assert len(spent.stderr.splitlines()) == 1
    assert (place / "run" / "summary.json").read_text() == before
    assert {log: log.stat().st_mtime_ns for log in (place / "run" / "logs").iterdir()} == logs, "no process was started"
    draw = random.Random(0)  # small state files are damaged, too, and the run still continues
    for name in ("run_id", "policy_version", "summary.json", "learner.json", "endpoints/replay.json", "plan.txt"):
        path = place / "run" / name
        path.write_bytes(draw.choice(sorted(damages(path.read_bytes(), draw).values())))
    shown = oatmill(place, "train", "cartpole", "--resume", "--json", f"trainer.total_timesteps={longer}")
    assert shown.returncode == 0, shown.stderr
    assert "Traceback" not in "".join(log.read_text() for log in (place / "run" / "logs").iterdir())
    resumed = json.loads(shown.stdout)
    assert (resumed["run_dir"], resumed["preset"]) == (summary["run_dir"], "conservative")
    assert (resumed["env_steps"], resumed["learner_steps"]) == (longer, 50)
    assert list(resumed["losses"]) == LOSSES
    assert resumed["policy_version"] > summary["policy_version"]
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["learner_step"] for line in lines] == [1, 10, 20, 30, 40, 50]
