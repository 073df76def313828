"""The guide's red flags: for each rule, reports that raise it and reports that do not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from learner.reporting.latch import CLEAR_AFTER
from learner.reporting.red_flags import (
    FLAGS,
    RAISE_AFTER,
    SPIKE_HISTORY,
    SPIKES,
    WINDOW,
    Observation,
    RedFlags,
)
from learner.reporting.return_trend import LEVEL

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
HELD = max(RAISE_AFTER.values())
"""So many equal reports raise whatever flag they can raise."""


def raised(*observations: Observation) -> dict[str, str]:
    """The flags that the last of these reports raises."""
    flags, found = RedFlags(), {}
    for observation in observations:
        found = flags.update(observation)
    return found


def with_return(observation: Observation, mean: float, std: float = 10.0, episodes: int = 100) -> Observation:
    return replace(observation, return_mean=mean, return_std=std, episodes=episodes)


def with_loss(name: str, *, value: float, gradient: float) -> Observation:
    return replace(HEALTHY, weighted={**HEALTHY.weighted, name: value}, gradient={**HEALTHY.gradient, name: gradient})


def test_a_healthy_run_raises_nothing() -> None:
    assert raised(*[HEALTHY] * 40) == {}


@pytest.mark.parametrize(
    ("value", "gradient", "expected"),
    [
        # The others' medians are 0.4 by value and 0.75 by gradient: ten times is 4 and 7.5. The policy gradient's is 0.5.
        (4.1, 7.6, True),
        (4.1, 7.4, False),
        (3.9, 7.6, False),
        (800.0, 1.0, False),
        (800.0, math.nan, False),
    ],
)
def test_a_loss_dominates_by_value_and_gradient_together(value: float, gradient: float, expected: bool) -> None:
    found = raised(*[with_loss("ppo_critic", value=value, gradient=gradient)] * HELD)
    assert ("loss_dominates" in found) == expected
    if expected:
        assert found["loss_dominates"].startswith("ppo_critic is over 10 times")


def test_a_single_loss_does_not_dominate() -> None:
    alone = replace(HEALTHY, weighted={"ppo_critic": 9.0}, gradient={"ppo_critic": 9.0})
    assert "loss_dominates" not in raised(*[alone] * HELD)


def test_small_auxiliary_losses_do_not_make_the_policy_gradient_or_the_critic_dominate() -> None:
    # The others' median gradient is 0.01, and both are hundreds of times that; but the critic has only twice the policy's.
    gradient = {"ppo_critic": 8.0, "ppo_actor": 4.0, "cmpo": 0.01, "dynamics": 0.01, "muesli_model": 0.001}
    report = replace(HEALTHY, weighted=gradient, gradient=gradient)
    assert "loss_dominates" not in raised(*[report] * HELD)
    heavy = replace(report, gradient={**gradient, "ppo_critic": 41.0})
    assert raised(*[heavy] * HELD)["loss_dominates"].startswith("ppo_critic")


def test_values_are_means_over_the_window_so_that_one_report_raises_no_alarm() -> None:
    # One report of 40 among nineteen of 1: mean 2.95, below 4. Among nine: 4.9, and 4.25 two reports later, 4.0 then.
    outlier = with_loss("ppo_critic", value=40.0, gradient=9.0)
    steady = with_loss("ppo_critic", value=1.0, gradient=9.0)
    assert "loss_dominates" not in raised(*[steady] * 19, outlier, *[steady] * 4)
    assert "loss_dominates" not in raised(*[steady] * 9, outlier, *[steady] * 4)
    assert "loss_dominates" in raised(*[steady] * 7, outlier, *[steady] * 4), "40 + 11 over 12 is 4.25"


@pytest.mark.parametrize(("gradient", "expected"), [(0.001, False), (5.0, False), (5.1, True), (math.nan, False)])
def test_muesli_may_push_up_to_ten_times_as_hard_as_ppo(gradient: float, expected: bool) -> None:
    found = raised(*[with_loss("muesli_model", value=0.3, gradient=gradient)] * HELD)
    assert ("muesli_ratio" in found) == expected


def test_the_muesli_ratio_says_both_ratios() -> None:
    # By gradient 6 / 0.5, by value 0.3 / 0.4.
    found = raised(*[with_loss("muesli_model", value=0.3, gradient=6.0)] * HELD)
    assert found["muesli_ratio"] == "muesli_model / ppo_actor is 12 by gradient and 0.75 by value; expected up to 10"


def test_without_muesli_there_is_no_ratio() -> None:
    ppo = replace(HEALTHY, weighted={"ppo_critic": 1.0, "ppo_actor": 0.5}, gradient={"ppo_critic": 9.0, "ppo_actor": 0.5})
    assert "muesli_ratio" not in raised(*[ppo] * HELD)


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
    report = replace(HEALTHY, entropy_ratio=ratio, progress=progress)
    assert set(raised(*[report] * RAISE_AFTER["entropy_high"])) == ({flag} if flag else set())
    assert not raised(*[report] * (RAISE_AFTER["entropy_high"] - 1))


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_entropy_is_no_problem_in_a_run_whose_return_has_risen(ratio: float) -> None:
    # The standard errors are 10 / sqrt(100) = 1, so a rise counts from 3 on. CartPole goes from 20 to 500 and stays there.
    report = replace(HEALTHY, entropy_ratio=ratio, progress=0.5)
    start = with_return(HEALTHY, 20.0)
    assert raised(start, *[with_return(report, 500.0, 0.0)] * HELD) == {}
    assert raised(start, *[with_return(report, 22.9)] * HELD), "within the noise"
    assert raised(start, *[with_return(report, 500.0)] * 3, *[with_return(report, 400.0)] * HELD), "380 of 480 are not kept"
    assert raised(start, *[with_return(report, 500.0, episodes=19)] * HELD), "too few episodes"


def with_variance(explained: float, target: float = 1.0) -> Observation:
    return replace(HEALTHY, explained_variance=explained, target_variance=target)


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([with_variance(-0.1)] * HELD, True),
        ([with_variance(-0.1)] * (HELD - 1), False),
        ([with_variance(-0.1)] * 5 + [with_variance(0.1)] + [with_variance(-0.1)] * (HELD - 1), False),
        ([with_variance(0.5)] * 5 + [with_variance(-0.1)] * HELD, True),
        # A solved task's returns hardly vary: below a tenth of the long-run mean variance it may show -9.
        ([with_variance(0.5)] * 20 + [with_variance(-9.0, 0.01)] * HELD, False),
        ([with_variance(math.nan, math.nan)] * HELD, False),
    ],
)
def test_explained_variance_that_stays_negative(reports: list[Observation], expected: bool) -> None:
    assert ("explained_variance_negative" in raised(*reports)) == expected


def test_a_critic_is_no_problem_in_a_run_whose_return_has_risen() -> None:
    solved = with_return(with_variance(-9.0), 500.0, 0.0)
    assert raised(with_return(HEALTHY, 20.0), *[solved] * HELD) == {}


def noisy(position: int) -> Observation:
    """A loss around 1 with a median absolute deviation of 0.1."""
    return with_loss("ppo_critic", value=1.0 + 0.1 * (position % 3 - 1), gradient=1.0)


def moved(observation: Observation, approx_kl: float = 0.11) -> Observation:
    return replace(observation, approx_kl=approx_kl)


def jumps(value: float, *, loss: str = "ppo_critic", approx_kl: float = 0.11) -> list[Observation]:
    """As many spikes as raise the flag, with a KL above its bound of 0.1."""
    return [moved(with_loss(loss, value=value, gradient=1.0), approx_kl)] * SPIKES


@pytest.mark.parametrize(("value", "expected"), [(1.0 + 1.4, False), (1.0 + 1.7, True), (1.0 - 1.7, True)])
def test_a_loss_that_is_often_far_outside_its_recent_spread_is_a_spike(value: float, expected: bool) -> None:
    # The history is 0.9, 1.0, 1.1 again and again: median 1, deviation 1.4826 * 0.1; ten of them are 1.48. The floor is half of
    # the usual sum of all losses, 0.5 * (1 + 0.5 + 0.3).
    history = [noisy(position) for position in range(SPIKE_HISTORY)]
    found = raised(*history, *jumps(value))
    assert ("loss_spike" in found) == expected
    if expected:
        assert found["loss_spike"].startswith("ppo_critic jumped from about 1 to")
        assert "loss_spike" not in raised(*history, *jumps(value)[1:]), "two spikes are not enough"


def test_spikes_are_a_problem_only_where_the_return_falls_or_the_policy_moves_too_far() -> None:
    history = [with_return(noisy(position), 100.0) for position in range(SPIKE_HISTORY)]
    calm = [with_return(report, 100.0) for report in jumps(9.0, approx_kl=0.02)]
    falling = [with_return(report, 90.0) for report in (*calm, HEALTHY)]
    assert "loss_spike" not in raised(*history, *calm)
    assert "loss_spike" not in raised(*history, *falling[:2], *calm[2:]), "it comes back at once"
    assert raised(*history, *falling)["loss_spike"].endswith("3 jumps in 20 reports; the return has fallen")
    assert raised(*history, *jumps(9.0))["loss_spike"].endswith("a learner step changed the policy by 0.11 nats")


def test_a_rare_reward_that_is_found_is_no_spike() -> None:
    # Before: 1 of 20 episodes has 0.9. Then 12 of 20 have it, and the losses and the policy change fast.
    before = [with_return(noisy(position), 0.045, std=0.2, episodes=20) for position in range(SPIKE_HISTORY)]
    found = [with_return(report, 0.54, std=0.45, episodes=20) for report in jumps(9.0)]
    assert "loss_spike" not in raised(*before, *found)
    lost = [with_return(report, 0.045, std=0.2, episodes=20) for report in jumps(9.0)]
    assert "loss_spike" in raised(*before, *lost), "it moves as far, and nothing has come of it"


def test_a_mean_that_was_lucky_is_no_best_to_fall_from() -> None:
    # 0.09 is 2 of 20 episodes with 0.9, so its standard error is 0.06; then 20 episodes have nothing, without any spread.
    history = [with_return(noisy(position), 0.0, std=0.0, episodes=20) for position in range(SPIKE_HISTORY)]
    lucky = with_return(noisy(0), 0.09, std=0.27, episodes=20)
    nothing = [with_return(report, 0.0, std=0.0, episodes=20) for report in jumps(9.0, approx_kl=0.02)]
    assert "loss_spike" not in raised(*history, lucky, *nothing)
    certain = [with_return(noisy(position), 0.54, std=0.45, episodes=20) for position in range(LEVEL)]
    lost = [with_return(HEALTHY, 0.0, std=0.0, episodes=20)] * LEVEL
    assert raised(*history, *certain, *nothing, *lost)["loss_spike"].endswith("the return has fallen")


def test_rare_rewards_that_come_and_go_are_no_fall() -> None:
    # Mean and standard deviation of reports 12 to 46 of minigrid_doorkey with seed 1: it learned, and the flag was wrong. Few
    # episodes reach the goal, all others end together at the time limit, and then the last 100 episodes have nothing.
    begin = (
        [(0.0010, 0.010)] * 2 + [(0.0088, 0.078)] * 3 + [(0.0258, 0.123)] * 3 + [(0.0319, 0.129)] * 3 + [(0.0013, 0.012)] * 6
    )
    middle = [(0.0065, 0.054), (0.0190, 0.088)] + [(0.0258, 0.099)] * 3 + [(0.0, 0.0)] * 4 + [(0.0138, 0.097), (0.0261, 0.128)]
    end = [(0.0344, 0.151), (0.0575, 0.177), (0.0575, 0.177), (0.0602, 0.178), (0.0602, 0.178), (0.0, 0.0), (0.0063, 0.063)]
    calm = begin + middle + end
    history = [with_return(noisy(position), mean, std) for position, (mean, std) in enumerate(calm[: -SPIKES - 1])]
    last = [with_return(report, *calm[position - SPIKES - 1]) for position, report in enumerate(jumps(9.0, approx_kl=0.02))]
    assert "loss_spike" not in raised(*history, *last, with_return(HEALTHY, *calm[-1]))


def test_a_loss_that_hardly_counts_has_no_spikes() -> None:
    # The floor is 0.5 * 1.8 = 0.9; a loss that goes from 2e-6 to 3e-5, or from 0.3 to 1.1, is below it.
    history = [with_loss("cmpo", value=2e-6, gradient=0.1)] * SPIKE_HISTORY
    assert "loss_spike" not in raised(*history, *jumps(3e-5, loss="cmpo"))
    assert "loss_spike" not in raised(*[HEALTHY] * SPIKE_HISTORY, *jumps(1.1, loss="muesli_model"))
    assert "loss_spike" in raised(*[HEALTHY] * SPIKE_HISTORY, *jumps(1.3, loss="muesli_model"))


def test_a_short_history_knows_no_spike_and_a_constant_one_no_tiny_ones() -> None:
    short = [noisy(position) for position in range(SPIKE_HISTORY - SPIKES)]
    assert "loss_spike" not in raised(*short, *jumps(99.0))
    constant = [HEALTHY] * SPIKE_HISTORY
    assert "loss_spike" not in raised(*constant, *jumps(1.8))
    assert "loss_spike" in raised(*constant, *jumps(2.0))


def test_a_loss_that_is_no_number_is_no_spike_and_does_not_enter_the_history() -> None:
    history = [HEALTHY] * SPIKE_HISTORY
    broken = moved(with_loss("ppo_critic", value=math.nan, gradient=1.0))
    assert "loss_spike" not in raised(*history, *[broken] * SPIKES)
    assert "loss_spike" in raised(*history, *[broken] * SPIKE_HISTORY, *jumps(9.0))


@pytest.mark.parametrize(("skipped", "expected"), [(0, {}), (3, {"non_finite": "3 updates were not applied"})])
def test_an_update_that_was_not_applied(skipped: int, expected: dict[str, str]) -> None:
    assert raised(replace(HEALTHY, skipped=skipped)) == expected


def test_every_rule_has_its_name_in_the_list() -> None:
    worst: dict[str, Any] = {"entropy_ratio": 0.01, "explained_variance": -1.0, "skipped": 1}
    found = set(raised(*[HEALTHY] * SPIKE_HISTORY, *[replace(HEALTHY, **worst)] * HELD))
    assert found == {"entropy_collapsed", "explained_variance_negative", "non_finite"}
    assert found < set(FLAGS)
    assert len(set(FLAGS)) == 9


def changes(*observations: Observation) -> int:
    """How often a flag is raised or cleared."""
    flags, before, count = RedFlags(), set[str](), 0
    for observation in observations:
        now = set(flags.update(observation))
        count += len(now ^ before)
        before = now
    return count


def test_a_value_that_crosses_its_bound_again_and_again_does_not_raise_and_clear_the_flag_each_time() -> None:
    # The bound is 0.1978; both sides are within 0.05 of it.
    low, high = replace(HEALTHY, entropy_ratio=0.19), replace(HEALTHY, entropy_ratio=0.24)
    assert changes(*[low, high] * 100) == 0, "never five times in a row"
    assert changes(*[low] * 10, *[high, low] * 100, *[high] * 100) == 1, "raised once, and 0.24 is too near to clear it"


def test_a_flag_is_cleared_after_several_reports_that_are_well_within_the_bound() -> None:
    low, well = replace(HEALTHY, entropy_ratio=0.19), replace(HEALTHY, entropy_ratio=0.25)
    assert "entropy_collapsed" in raised(*[low] * 5, *[well] * (CLEAR_AFTER - 1))
    assert "entropy_collapsed" not in raised(*[low] * 5, *[well] * CLEAR_AFTER)
    assert "entropy_collapsed" in raised(*[low] * 5, *[well] * (CLEAR_AFTER - 1), low, *[well] * (CLEAR_AFTER - 1))


@pytest.mark.parametrize(
    ("std", "spread", "expected"),
    [
        (0.0, 0.9, set()),  # self-play: the agents' returns differ, their mean never does
        (0.005, 0.9, set()),
        (0.02, 0.9, {"low", "high"}),  # the mean varies by more than a hundredth of 0.9
        (0.0, 0.0, {"low", "high"}),  # one agent whose episodes all return the same: no reward to learn from
    ],
)
def test_entropy_raises_no_flag_where_one_agent_wins_what_another_one_loses(
    std: float, spread: float, expected: set[str]
) -> None:
    def game(ratio: float, differ: float) -> Observation:
        report = replace(HEALTHY, entropy_ratio=ratio, agent_spread=differ, explained_variance=math.nan)
        return with_return(report, 0.0, std)

    # At the end all games are draws, so the agents do not differ any more.
    found = {name for name, ratio in (("low", 0.1), ("high", 0.9)) if raised(game(ratio, spread), *[game(ratio, 0.0)] * HELD)}
    assert found == expected


def test_a_game_in_which_the_mean_moves_away_from_the_first_one_is_judged_by_it() -> None:
    game = with_return(replace(HEALTHY, entropy_ratio=0.1, agent_spread=0.9), 0.0, 0.0)
    assert raised(*[game] * HELD) == {}
    assert set(raised(*[game] * HELD, *[with_return(game, -1.0, 0.0)] * HELD)) == {"entropy_collapsed"}


def test_flags_go_on_where_a_checkpoint_left_off() -> None:
    low = replace(HEALTHY, entropy_ratio=0.19, explained_variance=math.nan)
    before = RedFlags()
    for report in (with_return(HEALTHY, 20.0), *[with_return(low, 20.0)] * 4):
        assert before.update(report) == {}
    after = RedFlags()
    after.load(before.state())
    assert after == before
    assert set(after.update(low)) == {"entropy_collapsed"}, "the fifth report in a row"


def test_a_checkpoint_of_an_older_version_begins_anew_with_what_it_lacks() -> None:
    old = {name: value for name, value in RedFlags().state().items() if name not in {"spikes", "trend", "latches"}}
    flags = RedFlags()
    flags.load(old)
    assert flags.update(HEALTHY) == {}


def blamed(*observations: Observation) -> dict[str, str]:
    """The losses that the last report's flags blame."""
    flags = RedFlags()
    for observation in observations:
        flags.update(observation)
    return flags.blamed


def test_a_flag_blames_the_loss_that_it_is_about() -> None:
    heavy = [with_loss("muesli_model", value=800.0, gradient=800.0)] * HELD
    assert set(blamed(*heavy)) == {"muesli_model"}
    assert blamed(*heavy[:4]) == {}, "no flag is raised yet"
    assert blamed(*heavy, *[HEALTHY] * WINDOW) == {}, "what is over is not blamed on, while the flag is still raised"
    assert set(blamed(*[HEALTHY] * SPIKE_HISTORY, *jumps(50.0))) == {"ppo_critic"}
    assert set(blamed(*[with_loss("ppo_critic", value=4.1, gradient=7.6)] * HELD)) == {"ppo_critic"}


def test_muesli_is_blamed_where_it_pushes_too_hard() -> None:
    assert set(blamed(*[with_loss("muesli_model", value=0.3, gradient=5.1)] * HELD)) == {"muesli_model"}
    assert blamed(*[with_loss("muesli_model", value=0.3, gradient=0.1)] * HELD) == {}


def test_the_ratio_is_to_whichever_loss_is_the_policy_gradient() -> None:
    gradient = {"ppo_critic": 1.0, "muesli_pg": 0.05, "muesli_model": 1.0}
    report = replace(HEALTHY, gradient=gradient, weighted=dict.fromkeys(gradient, 0.3), policy_loss="muesli_pg")
    assert raised(*[report] * HELD)["muesli_ratio"].startswith("muesli_model / muesli_pg is 20 by gradient and 0.75 by value")
    assert "muesli_ratio" not in raised(*[replace(report, policy_loss="")] * HELD)
