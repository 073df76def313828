"""Peers side by side: what is compared is the same on both sides; the peers themselves are not here."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.peers.__main__ import TASKS, contestants, least_steps, main, own_settings, parse
from learner.budget import fit_batch
from recipes.registry import find_recipe
from runner.overrides import leaves, merged, nested, parse_assignment
from runner.settings import RunSettings


@pytest.mark.parametrize("name", TASKS)
def test_the_settings_of_a_task_are_the_recipes(name: str) -> None:
    task = TASKS[name]
    recipe = find_recipe(task.recipe).settings()
    changes = nested(parse_assignment(change) for change in own_settings(task.settings))
    changed = RunSettings.of(merged(recipe.explicit(), changes))
    theirs, ours = dict(leaves(changed.to_dict())), dict(leaves(recipe.to_dict()))
    # On cogs, what the peer has: no schedule that falls, no normalised rewards, minibatches of whole trajectories.
    own = {"optimizer.schedule", "minibatches", "shuffle", "gamma", "normalize_returns"} if name == "cogs" else set()
    assert {path for path in ours if theirs[path] != ours[path]} == {f"trainer.{setting}" for setting in own}
    given = json.loads(task.settings.read_text())
    assert (list(recipe.agent.hidden_sizes), recipe.agent.activation) == (given["hidden_sizes"], given["activation"])


def peer_with(folder: Path, peer: str, mettagrid: str | None) -> Path:
    (folder / peer / "bin").mkdir(parents=True)
    (folder / peer / "bin/python").touch()
    if mettagrid:
        (folder / peer / f"lib/python3.11/site-packages/mettagrid-{mettagrid}.dist-info").mkdir(parents=True)
    return folder


def test_cogs_is_for_those_who_have_a_runner_for_it(tmp_path: Path) -> None:
    peer_with(tmp_path, "stable-baselines3", None)
    assert main([str(tmp_path), "--task", "cogs"]) == 2
    peer_with(tmp_path, "sample-factory", version("mettagrid"))
    assert list(contestants(parse([str(tmp_path), "--task", "cogs"]))) == ["oatmill", "sample-factory"]
    everybody = list(contestants(parse([str(tmp_path)])))
    assert everybody == ["oatmill, one by one", "oatmill, vectorised", "stable-baselines3", "sample-factory"]


def test_pong_runs_in_both_precisions_beside_cleanrl_from_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = peer_with(peer_with(tmp_path, "sample-factory", None), "cleanrl", None)
    everybody = list(contestants(parse([str(folder), "--task", "pong"])))
    assert everybody == ["oatmill, float32", "oatmill, bfloat16", "sample-factory", "cleanrl"]
    assert "cleanrl" not in contestants(parse([str(folder)]))
    monkeypatch.delenv("CLEANRL", raising=False)
    assert main([str(folder), "--task", "pong", "--rounds", "0"]) == 2
    assert "set CLEANRL to its folder" in capsys.readouterr().err
    monkeypatch.setenv("CLEANRL", str(tmp_path))
    assert main([str(folder), "--task", "pong", "--rounds", "0"]) == 0


@pytest.mark.parametrize("theirs", [None, "0.1.0"])
def test_another_mettagrid_is_no_comparison(tmp_path: Path, theirs: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(peer_with(tmp_path, "sample-factory", theirs)), "--task", "cogs", "--rounds", "0"]) == 2
    assert f"sample-factory has mettagrid {theirs or '(none)'}, oatmill {version('mettagrid')}" in capsys.readouterr().err


def test_the_same_mettagrid_is_one(tmp_path: Path) -> None:
    folder = peer_with(tmp_path, "sample-factory", version("mettagrid"))
    assert main([str(folder), "--task", "cogs", "--rounds", "0"]) == 0


@pytest.mark.parametrize("arguments", [["--task", "cogs", "--large"], ["--task", "cogs", "--steps", "81919"]])
def test_what_would_compare_unlike_things_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["folder", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("benchmarks: error: --")


def test_the_fewest_steps_make_whole_batches() -> None:
    task = TASKS["cogs"]
    settings = find_recipe(task.recipe).settings()
    settings.trainer.total_timesteps = least_steps(task.settings)
    assert fit_batch(settings.trainer, settings.actors.unroll_length) == settings.trainer.batch_size
    assert parse(["folder", "--task", "cogs"]).steps == 100_000
    assert parse(["folder", "--large"]).steps == 655_360


def test_the_peers_environment_gets_the_mettagrid_that_is_here() -> None:
    script = (Path(__file__).parents[2] / "benchmarks/peers/setup.sh").read_text()
    assert f"METTAGRID:-mettagrid=={version('mettagrid')}}}" in script
