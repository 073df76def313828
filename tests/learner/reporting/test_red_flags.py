"""The guide's red flags: for each rule, reports that raise it and reports that do not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from learner.reporting.red_flags import (
    FLAGS,
    NEGATIVE_REPORTS,
    SPIKE_HISTORY,
    Observation,
    RedFlags,
)

HEALTHY = Observation(
    weighted={"ppo_critic": 1.0, "ppo_actor": 0.5, "muesli_model": 0.3},
    gradient={"ppo_critic": 1.0, "ppo_actor": 0.5, "muesli_model": 1.0},
    policy=0.4,
    entropy_nats=2.5,
    entropy_ratio=0.5,
    explained_variance=0.5,
    target_variance=1.0,
    skipped=0,
    progress=0.5,
)


def raised(*observations: Observation) -> dict[str, str]:
    """The flags that the last of these reports raises."""
    flags, found = RedFlags(), {}
    for observation in observations:
        found = flags.update(observation)
    return found


def with_loss(name: str, *, value: float, gradient: float) -> Observation:
    return replace(HEALTHY, weighted={**HEALTHY.weighted, name: value}, gradient={**HEALTHY.gradient, name: gradient})


def test_a_healthy_run_raises_nothing() -> None:
    assert raised(*[HEALTHY] * 40) == {}


@pytest.mark.parametrize(
    ("value", "gradient", "expected"),
    [
        # The others' medians are 0.4 by value and 0.75 by gradient: ten times is 4 and 7.5.
        (4.1, 7.6, True),
        (4.1, 7.4, False),
        (3.9, 7.6, False),
        (800.0, 1.0, False),
        (800.0, math.nan, False),
    ],
)
def test_a_loss_dominates_by_value_and_gradient_together(value: float, gradient: float, expected: bool) -> None:
    found = raised(with_loss("ppo_critic", value=value, gradient=gradient))
    assert ("loss_dominates" in found) == expected
    if expected:
        assert found["loss_dominates"].startswith("ppo_critic is over 10 times")


def test_one_loss_alone_dominates_nobody() -> None:
    assert "loss_dominates" not in raised(replace(HEALTHY, weighted={"ppo_actor": 9.0}, gradient={"ppo_actor": 9.0}))


def test_values_are_means_over_the_window_so_that_one_report_raises_no_alarm() -> None:
    # One report of 40 among nine of 1: mean 4.9 > 4; among nineteen: 2.95.
    outlier = with_loss("ppo_critic", value=40.0, gradient=9.0)
    steady = with_loss("ppo_critic", value=1.0, gradient=9.0)
    assert "loss_dominates" in raised(*[steady] * 9, outlier)
    assert "loss_dominates" not in raised(*[steady] * 19, outlier)
    assert "loss_dominates" not in raised(outlier, *[steady] * 20), "what has left the window is forgotten"


@pytest.mark.parametrize(("gradient", "expected"), [(0.4, True), (0.5, False), (5.0, False), (5.1, True), (math.nan, False)])
def test_muesli_should_push_one_to_ten_times_as_hard_as_ppo(gradient: float, expected: bool) -> None:
    found = raised(with_loss("muesli_model", value=0.3, gradient=gradient))
    assert ("muesli_ratio" in found) == expected


def test_the_muesli_ratio_says_both_ratios() -> None:
    # By gradient 0.1 / 0.5, by value 0.3 / 0.4.
    found = raised(with_loss("muesli_model", value=0.3, gradient=0.1))
    assert found["muesli_ratio"] == "muesli_model / ppo_actor is 0.2 by gradient and 0.75 by value; expected 1 to 10"


def test_without_muesli_there_is_no_ratio() -> None:
    assert "muesli_ratio" not in raised(
        replace(HEALTHY, weighted={"ppo_critic": 1.0, "ppo_actor": 0.5}, gradient={"ppo_critic": 1.0, "ppo_actor": 0.5})
    )


@pytest.mark.parametrize(
    ("ratio", "progress", "flag"),
    [
        # 1 nat of ln 157 = 5.056 is a fraction of 0.1978, 4 nats are 0.7911; high entropy counts after a quarter of the budget.
        (0.1977, 0.0, "entropy_collapsed"),
        (0.1979, 0.0, None),
        (0.7910, 0.9, None),
        (0.7912, 0.9, "entropy_high"),
        (0.792, 0.25, "entropy_high"),
        (0.792, 0.24, None),
        (math.nan, 0.9, None),
    ],
)
def test_entropy_has_a_band(ratio: float, progress: float, flag: str | None) -> None:
    found = raised(replace(HEALTHY, entropy_ratio=ratio, progress=progress))
    assert set(found) == ({flag} if flag else set())


def with_variance(explained: float, target: float = 1.0) -> Observation:
    return replace(HEALTHY, explained_variance=explained, target_variance=target)


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([with_variance(-0.1)] * NEGATIVE_REPORTS, True),
        ([with_variance(-0.1)] * (NEGATIVE_REPORTS - 1), False),
        ([with_variance(-0.1)] * 5 + [with_variance(0.1)] + [with_variance(-0.1)] * (NEGATIVE_REPORTS - 1), False),
        ([with_variance(0.5)] * 5 + [with_variance(-0.1)] * NEGATIVE_REPORTS, True),
        # A solved task's returns hardly vary: below a tenth of the long-run mean variance it may show -9.
        ([with_variance(0.5)] * 20 + [with_variance(-9.0, 0.01)] * NEGATIVE_REPORTS, False),
        ([with_variance(math.nan, math.nan)] * NEGATIVE_REPORTS, False),
    ],
)
def test_explained_variance_that_stays_negative(reports: list[Observation], expected: bool) -> None:
    assert ("explained_variance_negative" in raised(*reports)) == expected


def noisy(position: int) -> Observation:
    """A loss around 1 with a median absolute deviation of 0.1."""
    return with_loss("ppo_critic", value=1.0 + 0.1 * (-1) ** position, gradient=1.0)


@pytest.mark.parametrize(("value", "expected"), [(1.0 + 1.4, False), (1.0 + 1.7, True), (1.0 - 1.7, True)])
def test_a_loss_far_outside_its_recent_spread_is_a_spike(value: float, expected: bool) -> None:
    # The history alternates between 0.9 and 1.1: median 1, deviation 1.4826 * 0.1; ten of them are 1.48.
    history = [noisy(position) for position in range(SPIKE_HISTORY)]
    found = raised(*history, with_loss("ppo_critic", value=value, gradient=1.0))
    assert ("loss_spike" in found) == expected
    if expected:
        assert found["loss_spike"].startswith("ppo_critic jumped from about 1 to")


def test_a_short_history_knows_no_spike_and_a_constant_one_no_tiny_ones() -> None:
    short = [noisy(position) for position in range(SPIKE_HISTORY - 1)]
    assert "loss_spike" not in raised(*short, with_loss("ppo_critic", value=99.0, gradient=1.0))
    constant = [HEALTHY] * SPIKE_HISTORY
    assert "loss_spike" not in raised(*constant, with_loss("ppo_critic", value=1.4, gradient=1.0))
    assert "loss_spike" in raised(*constant, with_loss("ppo_critic", value=1.6, gradient=1.0))


def test_a_loss_that_is_no_number_is_no_spike_and_does_not_enter_the_history() -> None:
    history = [HEALTHY] * SPIKE_HISTORY
    broken = with_loss("ppo_critic", value=math.nan, gradient=1.0)
    assert "loss_spike" not in raised(*history, broken)
    assert "loss_spike" in raised(*history, *[broken] * SPIKE_HISTORY, with_loss("ppo_critic", value=9.0, gradient=1.0))


@pytest.mark.parametrize(("skipped", "expected"), [(0, {}), (3, {"non_finite": "3 updates were not applied"})])
def test_an_update_that_was_not_applied(skipped: int, expected: dict[str, str]) -> None:
    assert raised(replace(HEALTHY, skipped=skipped)) == expected


def test_every_rule_has_its_name_in_the_list() -> None:
    worst: dict[str, Any] = {"entropy_ratio": 0.01, "explained_variance": -1.0, "skipped": 1}
    found = set(raised(*[HEALTHY] * SPIKE_HISTORY, *[replace(HEALTHY, **worst)] * NEGATIVE_REPORTS))
    assert found == {"entropy_collapsed", "explained_variance_negative", "non_finite"}
    assert found < set(FLAGS)
    assert len(set(FLAGS)) == 9


def blamed(*observations: Observation) -> dict[str, str]:
    """The losses that the last report's flags blame."""
    flags = RedFlags()
    for observation in observations:
        flags.update(observation)
    return flags.blamed


def test_a_flag_blames_the_loss_that_it_is_about() -> None:
    heavy = with_loss("muesli_model", value=800.0, gradient=800.0)
    assert set(blamed(heavy)) == {"muesli_model"}
    assert blamed(heavy, *[HEALTHY] * 21) == {}, "what is over is not blamed on"
    spike = with_loss("ppo_critic", value=50.0, gradient=1.0)
    assert set(blamed(*[HEALTHY] * SPIKE_HISTORY, spike)) == {"ppo_critic"}
    assert set(blamed(with_loss("ppo_critic", value=4.1, gradient=7.6))) == {"ppo_critic"}


def test_muesli_is_blamed_where_it_pushes_too_hard_and_not_where_it_does_too_little() -> None:
    assert set(blamed(with_loss("muesli_model", value=0.3, gradient=5.1))) == {"muesli_model"}
    weak = with_loss("muesli_model", value=0.3, gradient=0.1)
    assert "muesli_ratio" in raised(weak)
    assert blamed(weak) == {}


def test_the_ratio_is_to_whichever_loss_is_the_policy_gradient() -> None:
    gradient = {"ppo_critic": 1.0, "muesli_pg": 0.05, "muesli_model": 1.0}
    report = replace(HEALTHY, gradient=gradient, weighted=dict.fromkeys(gradient, 0.3), policy_loss="muesli_pg")
    assert raised(report)["muesli_ratio"].startswith("muesli_model / muesli_pg is 20 by gradient and 0.75 by value")
    assert "muesli_ratio" not in raised(replace(report, policy_loss=""))
