"""What the doctor makes of a model that agrees with the returns, and of one that does not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.doctor import verdict
from deploy.doctor.cmpo import model
from deploy.doctor.diagnosis import MEANINGS, auxiliaries, dominance, entropy, returns, rewards, step_size
from deploy.doctor.examined_run import ExaminedRun
from deploy.doctor.findings import Finding, balanced
from learner.reporting.red_flags import FLAGS

SETTINGS = {"trainer.total_timesteps": 1000.0, "trainer.losses.cmpo.kl_coef": 0.3}


def run_with(agreement: float | None, *, share: float, env_steps: int = 900) -> ExaminedRun:
    cmpo: dict[str, Any] = {"gradient_share": share, "advantage_agreement": agreement}
    return ExaminedRun("a run", ({"env_steps": env_steps, "losses": {"cmpo": cmpo}},), SETTINGS)


def test_every_red_flag_has_a_meaning() -> None:
    assert MEANINGS.keys() == set(FLAGS)


def found_by_model(agreement: float | None, **changes: Any) -> list[Finding]:
    return list(model(run_with(agreement, **changes)))


def test_a_model_that_disagrees_is_wrong_where_cmpo_pushes() -> None:
    (found,) = found_by_model(-0.1, share=0.3)
    assert found.wrong
    # 0.3 of the gradient is 3/7 of all others; a tenth is 1/9: the coefficient 0.3 times (1/9) / (3/7) = 7/27 is 0.078.
    assert found.tries == ("trainer.losses.cmpo.kl_coef=0.078",)
    assert "agree on actions by -0.10" in found.text
    assert "turn out worse" in found.text


@pytest.mark.parametrize(
    ("agreement", "changes"),
    [(0.25, {"share": 0.3}), (0.01, {"share": 0.3}), (-0.1, {"share": 0.05}), (-0.1, {"share": 0.3, "env_steps": 10})],
    ids=["it agrees", "noise hides it", "CMPO hardly pushes", "the run has just begun"],
)
def test_nothing_is_wrong_otherwise(agreement: float, changes: dict[str, Any]) -> None:
    (found,) = found_by_model(agreement, **changes)
    assert not found.wrong
    assert found.tries == ()


def test_little_agreement_blames_no_model() -> None:
    # An exact model of LunarLander agrees with its returns by 0.04: one action matters little there.
    (found,) = found_by_model(0.04, share=0.3)
    assert "the model is poor, or one action matters little" in found.text
    (found,) = found_by_model(0.25, share=0.3)
    assert "poor" not in found.text


def test_nothing_is_said_without_a_model() -> None:
    assert found_by_model(None, share=0.3) == []


@pytest.mark.parametrize(
    ("agreement", "tries"),
    [(0.2, ("trainer.losses.cmpo.kl_coef=33",)), (0.01, ()), (None, ("trainer.losses.cmpo.kl_coef=33",))],
)
def test_a_coefficient_is_not_raised_where_more_of_it_would_harm(agreement: float | None, tries: tuple[str, ...]) -> None:
    found = [finding for finding in auxiliaries(run_with(agreement, share=0.001)) if finding.topic == "cmpo"]
    assert [finding.tries for finding in found] == [tries]


@pytest.mark.parametrize(("share", "now"), [(0.001, 0.3), (0.02, 0.3), (0.3, 0.3), (0.94, 1.0)])
def test_one_jump_brings_the_loss_to_a_tenth_of_the_gradient(share: float, now: float) -> None:
    # All other losses push with 1 - share; the loss pushes with share times the jump.
    run = replace(run_with(None, share=share), settings={**SETTINGS, "trainer.losses.cmpo.kl_coef": now})
    (setting,) = balanced(run, "cmpo")
    pushed = share * float(setting.partition("=")[2]) / now
    assert pushed / (pushed + 1 - share) == pytest.approx(0.1, rel=0.06), "two digits are shown"


@pytest.mark.parametrize("share", [0.0, 1.0, None])
def test_a_share_that_says_nothing_leaves_the_jump_to_the_learner(share: float | None) -> None:
    run = ExaminedRun("a run", ({"env_steps": 9, "losses": {"cmpo": {"gradient_share": share}}},), SETTINGS)
    assert balanced(run, "cmpo") == ("trainer.balance=gradient_share",)


def test_a_jump_is_at_most_a_thousandfold() -> None:
    assert balanced(run_with(None, share=1e-6), "cmpo") == ("trainer.losses.cmpo.kl_coef=3e+02",)


def test_no_setting_is_suggested_with_two_values() -> None:
    muesli = {"share": 0.99, "gradient_share": 0.94}
    settings = {**SETTINGS, "trainer.losses.muesli_model.policy_pred_coef": 1.0}
    lines = ({"env_steps": 900, "losses": {"muesli_model": muesli, "ppo_actor": {"share": 0.01, "gradient_share": 0.06}}},)
    run = ExaminedRun("a run", lines, settings)
    tries = [tried for check in (dominance, auxiliaries) for finding in check(run) for tried in finding.tries]
    # 1/9 times 6/94 is 0.0071.
    assert tries == ["trainer.losses.muesli_model.policy_pred_coef=0.0071"] * 2


def test_a_loss_that_is_large_by_value_alone_is_no_problem() -> None:
    muesli = {"share": 0.99, "gradient_share": 0.1}
    lines = ({"env_steps": 900, "losses": {"muesli_model": muesli, "ppo_actor": {"share": 0.01, "gradient_share": 0.9}}},)
    (found,) = dominance(ExaminedRun("a run", lines, SETTINGS))
    assert not found.wrong
    assert found.text.endswith("muesli_model has only 10.0% of the gradient: most of its value is a constant")


def test_low_entropy_is_no_problem_where_the_return_is_near_its_best() -> None:
    def lines(*means: float) -> tuple[dict[str, Any], ...]:
        returns = [{"mean": mean, "std": 10.0, "n": 100} for mean in means]
        return tuple(
            {"env_steps": 900, "losses": {}, "entropy": {"nats": 0.01, "fraction": 0.1}, "episode_return": of} for of in returns
        )

    (solved,) = entropy(ExaminedRun("a run", lines(20, 300, 500), SETTINGS))
    (stuck,) = entropy(ExaminedRun("a run", lines(20, 9, 9), SETTINGS))
    assert (solved.wrong, stuck.wrong) == (False, True)
    assert "near its best" in solved.text


def test_what_to_try_belongs_to_the_policy_loss_that_trains() -> None:
    settings = SETTINGS | {"trainer.losses.muesli_pg.enabled": 1.0, "trainer.losses.muesli_pg.ent_coef": 0.0}

    def line(fraction: float) -> dict[str, Any]:
        entropy = {"nats": 0.01, "fraction": fraction}
        return {"env_steps": 990, "losses": {}, "entropy": entropy, "approx_kl": 0.4, "episode_return": None}

    (collapsed,) = entropy(ExaminedRun("a run", (line(0.1),) * 5, settings))
    (random,) = entropy(ExaminedRun("a run", (line(0.99),) * 5, settings))
    (large,) = step_size(ExaminedRun("a run", (line(0.5),) * 5, settings))
    assert collapsed.tries == ("trainer.losses.muesli_pg.ent_coef=0.01",)
    assert random.tries == (), "there is no bonus to lower"
    assert not any("ppo_actor" in tried for tried in large.tries)


def test_a_run_whose_episodes_all_had_the_same_return_is_told_so_and_not_to_lower_the_entropy_bonus(tmp_path: Path) -> None:
    def run(*returns: tuple[float, float], skip: float = 4.0, folder: Path | None = tmp_path) -> ExaminedRun:
        lines = [
            {"env_steps": 990, "losses": {}, "entropy": {"nats": 1.1, "fraction": 0.99}, "episode_return": of}
            for of in ({"mean": mean, "std": std, "n": 48} for mean, std in returns)
        ]
        return ExaminedRun("a run", lines, SETTINGS | {"env.frame_skip": skip}, folder=folder)

    (alike,), (still_random,) = rewards(run((-3, 0), (-3, 0))), entropy(run((-3, 0), (-3, 0)))
    assert alike.wrong
    assert alike.text.startswith("every episode had a return of -3, so nothing tells good actions from bad ones")
    assert alike.tries == ("env.frame_skip=16",)
    assert (still_random.wrong, still_random.tries) == (False, ())
    assert [finding.tries for finding in rewards(run((0, 0), skip=math.nan))] == [()]
    for other in (run((0, 0), (0, 0.1)), run((0, 0), (-1, 0)), run((math.nan, 0)), run((0, 0), folder=None)):
        assert not list(rewards(other))
        assert next(entropy(other)).wrong
    solved = replace(run((500, 0)), lines=[{**line, "entropy": {"nats": 0.1, "fraction": 0.1}} for line in run((500, 0)).lines])
    assert not list(rewards(solved))


@pytest.mark.parametrize(("spread", "wrong"), [(0.9, False), (None, True)])
def test_low_entropy_is_no_problem_where_one_agent_wins_what_another_one_loses(spread: float | None, wrong: bool) -> None:
    line = {
        "env_steps": 900,
        "losses": {},
        "entropy": {"nats": 0.01, "fraction": 0.1},
        "episode_return": {"mean": 0.0, "std": 0.0, "n": 100},
        "episode_statistics": {"agent_return_std": spread},
    }
    (found,) = entropy(ExaminedRun("a run", (line,) * 5, SETTINGS))
    assert found.wrong == wrong
    assert ("does not tell" in found.text) != wrong


def test_a_large_step_is_no_problem_where_the_return_is_near_its_best() -> None:
    def lines(*means: float) -> tuple[dict[str, Any], ...]:
        returns = [{"mean": mean, "std": 10.0, "n": 100} for mean in means]
        return tuple({"env_steps": 900, "losses": {}, "approx_kl": 0.4, "episode_return": of} for of in returns)

    (grows,) = step_size(ExaminedRun("a run", lines(20, 300, 500), SETTINGS))
    (fell,) = step_size(ExaminedRun("a run", lines(20, 300, 9), SETTINGS))
    assert (grows.wrong, grows.tries) == (False, ())
    assert fell.wrong
    assert fell.tries[-1] == "trainer.losses.ppo_actor.target_kl=0.02"


def test_a_share_is_that_of_most_of_the_run_and_not_of_its_end_where_the_learning_rate_is_0() -> None:
    shares = [0.5] * 10 + [0.15] * 8 + [0.001] * 2
    lines = tuple({"env_steps": 900, "losses": {"cmpo": {"gradient_share": share}}} for share in shares)
    run = ExaminedRun("a run", lines, SETTINGS)
    assert run.share("cmpo") == 0.15
    assert list(auxiliaries(run)) == []


def test_returns_that_use_few_of_the_steps_that_are_meant_need_newer_data() -> None:
    def found(**steps: float | None) -> list[Finding]:
        return list(returns(ExaminedRun("a run", ({"env_steps": 900, "losses": {}, "return_steps": steps},), SETTINGS)))

    (fine,) = found(fresh=13.0, replayed=6.0, on_policy=28.0)
    assert (fine.wrong, fine.tries) == (False, ())
    assert fine.text == "returns use 13.0 steps of fresh data and 6.0 steps of replayed data (28.0 with on-policy data)"
    (short,) = found(fresh=7.0, replayed=None, on_policy=28.0)
    assert (short.wrong, short.tries) == (True, ("actors.synchronous=true",))
    assert found(fresh=None, replayed=None, on_policy=None) == found() == []


def finding(*, wrong: bool, tries: tuple[str, ...] = (), topic: str = "cmpo") -> Finding:
    return Finding(wrong=wrong, topic=topic, text="", tries=tries)


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ([finding(wrong=False)], "no problems found"),
        ([finding(wrong=False, tries=("a=1",)), finding(wrong=False)], "no problems found, 1 note with advice"),
        (
            [finding(wrong=False, tries=("a=1",)), finding(wrong=False, topic="red flag")],
            "no problems found, 2 notes with advice",
        ),
        ([finding(wrong=True, tries=("a=1",)), finding(wrong=False)], "1 problem found"),
    ],
)
def test_the_first_line_counts_what_needs_a_change_and_what_is_worth_a_look(findings: list[Finding], said: str) -> None:
    assert verdict(findings) == said
