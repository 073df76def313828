"""The arms of a comparison, and what their runs' settings come to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.comparison.arms import GUIDE, find_arms
from deploy.comparison.runs import Cell, Comparison, check_plans, make_comparison
from oatmill.errors import UserError
from recipes import from_environment
from recipes.registry import find_recipe
from recipes.resolve import recipe_or_environment
from runner.overrides import Layer, nested
from runner.settings import RunSettings, prepared, write_config

CARTPOLE = find_recipe("cartpole")
LOSSES = ("ppo_critic", "cmpo", "ppo_actor", "dynamics", "muesli_model")


def enabled(cell: Cell) -> list[str]:
    return [name for name in LOSSES if getattr(cell.settings.trainer.losses, name).enabled]


def compared(out: Path, seeds: int = 2, **settings: object) -> Comparison:
    common = [Layer(nested((path.replace("__", "."), value) for path, value in settings.items()))]
    return make_comparison(CARTPOLE, find_arms(",".join(GUIDE), ()), seeds=seeds, common=common, out=out)


def finish(cell: Cell) -> None:
    """Leave what a finished run leaves."""
    cell.folder.mkdir(parents=True)
    write_config(prepared(cell.settings)[0], cell.folder / "config.yaml")
    (cell.folder / "summary.json").write_text(json.dumps({"outcome": "done"}))


def test_the_guides_arms_add_one_loss_at_a_time(tmp_path: Path) -> None:
    cells = compared(tmp_path, seeds=1).cells
    assert [enabled(cell) for cell in cells] == [
        ["ppo_critic", "ppo_actor"],
        ["ppo_critic", "ppo_actor", "muesli_model"],
        ["ppo_critic", "cmpo", "ppo_actor", "muesli_model"],
        ["ppo_critic", "cmpo", "ppo_actor", "dynamics", "muesli_model"],
    ]


def test_a_seeds_arms_run_one_after_another_with_the_same_seed(tmp_path: Path) -> None:
    cells = compared(tmp_path).cells
    assert [(cell.seed, cell.arm) for cell in cells] == [(seed, arm) for seed in (0, 1) for arm in GUIDE]
    assert all(cell.settings.trainer.seed == cell.settings.actors.seed == cell.seed for cell in cells)
    assert len({cell.folder for cell in cells}) == 8


def test_an_own_arm_may_start_from_a_preset_and_its_settings_win(tmp_path: Path) -> None:
    arms = find_arms("paper", ["small=trainer.minibatches=16,preset=paper,trainer.losses.cmpo.kl_coef=0.5"])
    paper, small = make_comparison(CARTPOLE, arms, seeds=1, common=[], out=tmp_path).cells
    assert enabled(small) == enabled(paper) == ["ppo_critic", "cmpo", "dynamics", "muesli_model"]
    assert (paper.settings.trainer.minibatches, small.settings.trainer.minibatches) == (1, 16)
    assert (small.settings.trainer.losses.cmpo.kl_coef, small.settings.replay.fraction) == (0.5, 0.75)
    with pytest.raises(UserError, match="there is no preset 'papr'; the nearest is paper"):
        find_arms("baseline", ["small=preset=papr"])


def test_an_own_arm_holds_lists_and_wins_over_what_all_arms_have(tmp_path: Path) -> None:
    arms = find_arms("baseline", ["wide=agent.hidden_sizes=[32,16],trainer.gamma=0.9"])
    common = [Layer(nested([("trainer.gamma", 0.5), ("trainer.batch_size", 8)]))]
    baseline, wide = make_comparison(CARTPOLE, arms, seeds=1, common=common, out=tmp_path).cells
    assert wide.settings.agent.hidden_sizes == (32, 16)
    assert (baseline.settings.trainer.gamma, wide.settings.trainer.gamma) == (0.5, 0.9)
    assert baseline.settings.trainer.batch_size == wide.settings.trainer.batch_size == 8


def test_a_preset_is_an_arm(tmp_path: Path) -> None:
    comparison = make_comparison(CARTPOLE, find_arms("paper,conservative", ()), seeds=1, common=[], out=tmp_path)
    assert comparison.reference == "paper"
    assert enabled(comparison.cells[0]) == ["ppo_critic", "cmpo", "dynamics", "muesli_model"]


@pytest.mark.parametrize(
    ("names", "own", "message"),
    [
        ("baseline,museli", [], r"there is no arm 'museli'; the nearest is muesli"),
        ("baseline", [], "takes two arms or more, got baseline"),
        ("", [], "takes two arms or more, got none"),
        ("baseline,full,full", [], "two arms named full"),
        ("baseline", ["fast"], "expected NAME=key=value"),
        ("baseline", ["fast=trainer.gamma"], "expected NAME=key=value"),
        ("baseline", ["../up=trainer.gamma=1"], "expected NAME=key=value"),
    ],
)
def test_arms_that_cannot_be_are_one_line(names: str, own: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_arms(names, own)


def test_a_finished_run_is_kept_only_with_the_settings_that_are_asked_for(tmp_path: Path) -> None:
    for cell in compared(tmp_path).cells[:3]:
        finish(cell)
    again = compared(tmp_path, seeds=3)
    assert [cell.finished for cell in again.cells] == [True] * 3 + [False] * 9
    with pytest.raises(UserError, match=r"was run with trainer.gamma=0.99, and now 0.9 is asked for; choose another --out"):
        compared(tmp_path, trainer__gamma=0.9)


def test_a_finished_run_with_the_networks_of_a_cpu_is_what_auto_asked_for(tmp_path: Path) -> None:
    for cell in compared(tmp_path).cells[:1]:
        finish(cell)
        config = cell.folder / "config.yaml"
        config.write_text(config.read_text().replace("encoder: auto\n", "encoder: auto_cpu\n"))
        assert "auto_cpu" in config.read_text()
    assert compared(tmp_path).cells[0].finished
    with pytest.raises(UserError, match=r"was run with agent.encoder=auto_cpu, and now mlp is asked for"):
        compared(tmp_path, agent__encoder="mlp")


def test_half_a_run_is_not_finished(tmp_path: Path) -> None:
    cell = compared(tmp_path).cells[0]
    finish(cell)
    (cell.folder / "summary.json").write_text(json.dumps({"outcome": "stopped"}))
    assert not compared(tmp_path, trainer__gamma=0.9).cells[0].finished


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    cell = compared(tmp_path).cells[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="contains something that is not a run"):
        compared(tmp_path)


def test_an_arm_that_cannot_be_planned_is_named(tmp_path: Path) -> None:
    arms = find_arms(
        "baseline", ["odd=trainer.losses.muesli_model.enabled=true,trainer.losses.muesli_model.policy_target=cmpo"]
    )
    with pytest.raises(UserError, match=r"arm odd: .*cmpo"):
        check_plans(make_comparison(CARTPOLE, arms, seeds=1, common=[], out=tmp_path))


def test_arms_are_compared_on_an_environment_without_a_recipe_which_is_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    built = []
    fitting = from_environment.fitting

    def spy(settings: RunSettings) -> dict[str, object]:
        built.append(settings.env)
        return fitting(settings)

    monkeypatch.setattr(from_environment, "fitting", spy)
    recipe = recipe_or_environment(None, "gymnasium:CartPole-v1")
    arms = find_arms("", ["one=trainer.epochs=1", "two=trainer.epochs=2"])
    comparison = make_comparison(recipe, arms, seeds=2, common=[], out=None)
    assert [cell.settings.trainer.epochs for cell in comparison.cells] == [1, 2, 1, 2]
    assert all(cell.settings.agent.normalize_observations for cell in comparison.cells)
    assert comparison.out == tmp_path / "runs" / "compare-gymnasium-CartPole-v1"
    assert len(built) == 1
    arms = find_arms("", ["one=trainer.epochs=1", "other=env.id=MountainCar-v0"])
    cells = make_comparison(recipe, arms, seeds=1, common=[], out=tmp_path / "other").cells
    assert [cell.settings.env.model_dump()["id"] for cell in cells] == ["CartPole-v1", "MountainCar-v0"]
    assert len(built) == 2
