from __future__ import annotations

import numpy as np

from replay.histogram import Histogram
from replay.ingest.fleet import EPISODE_WINDOW, FleetStatistics
from tests.replay.blocks import SCHEMA, block


def stored(fleet: FleetStatistics, *, returns: tuple[float, ...] = (), valid: bool = True, lag: int = 0) -> None:
    content = block(2, returns=returns)
    content.valid[...] = valid
    fleet.stored({entry.name: getattr(content, entry.name) for entry in SCHEMA.trajectory.fields}, 0.02, lag)


def test_without_episodes_the_statistics_are_none() -> None:
    summary = FleetStatistics(("hearts",)).summary()
    assert summary["episode_return"] == {"mean": None, "std": None, "n": 0}
    assert summary["episode_length"] is None
    assert summary["statistics"] == {}
    assert summary["policy_lag"] == {"p50": None, "p99": None}


def test_returns_lengths_and_statistics_are_of_the_last_100_episodes() -> None:
    fleet = FleetStatistics(("hearts",))
    stored(fleet, returns=(1000.0,) * 7)
    for _ in range(50):
        stored(fleet, returns=(1.0, 3.0))
    summary = fleet.summary()
    # By hand: 50 of 1 and 50 of 3: mean 2, deviation 1; lengths 10 and 30; hearts half of the return.
    assert summary["episode_return"] == {"mean": 2.0, "std": 1.0, "n": EPISODE_WINDOW}
    assert summary["episode_length"] == 20.0
    assert summary["statistics"] == {"hearts": 1.0}
    assert summary["episodes"] == 107
    assert fleet.quantiles()["episode_return"] == {
        "quantiles": {"0.0": 1.0, "0.5": 2.0, "1.0": 3.0},
        "sum": 7000.0 + 200.0,
        "count": 107,
    }


def test_a_statistics_mean_is_over_the_episodes_that_had_it() -> None:
    fleet = FleetStatistics(("hearts",))
    content = block(2, returns=(1.0, 2.0, 3.0, 4.0))
    content.episode_statistics[:, 0] = (np.nan, 0.0, np.nan, 1.0)
    arrays = {entry.name: getattr(content, entry.name) for entry in SCHEMA.trajectory.fields}
    fleet.stored(arrays, 0.02, 0)
    assert fleet.summary()["statistics"] == {"hearts": 0.5}
    others = FleetStatistics(("hearts",))
    others.stored(arrays | {"episode_statistics": np.full((4, 1), np.nan, np.float32)}, 0.02, 0)
    assert others.summary()["statistics"] == {}, "no episode had it"


def test_a_block_with_more_episodes_than_the_window_keeps_its_last_ones() -> None:
    fleet = FleetStatistics(("hearts",))
    stored(fleet, returns=(5.0,) * 50 + (7.0,) * 100)
    assert fleet.summary()["episode_return"]["mean"] == 7.0
    assert fleet.episodes == 150


def test_only_steps_of_agents_that_were_present_count() -> None:
    fleet = FleetStatistics(("hearts",))
    stored(fleet)
    stored(fleet, valid=False)
    assert fleet.env_steps == 4  # 2 rows of 2 steps, and 4 steps in which nobody was there


def test_the_lags_percentiles_are_of_trajectories_not_of_blocks() -> None:
    fleet = FleetStatistics()
    fleet.handed_out([(98, 1, 0.0), (2, 9, 0.0)])
    # By hand: of 100 trajectories 98 lag by 1; the 50th and the 98th are among them, the 99th is not.
    assert (fleet.lag_percentile(0.5), fleet.lag_percentile(0.98), fleet.lag_percentile(0.99)) == (1, 1, 9)


def test_old_lags_are_forgotten() -> None:
    fleet = FleetStatistics()
    fleet.handed_out([(10, 50, 0.0)])
    fleet.handed_out([(1000, 1, 0.0)] * 10)
    assert fleet.lag_percentile(1.0) == 1
    assert fleet.lag.to_dict()["cumulative"][-1] == 10_010  # the histogram forgets nothing


def test_the_lag_of_stored_trajectories_is_counted_per_trajectory() -> None:
    fleet = FleetStatistics(("hearts",))
    for lag in (0, 3, 3):
        stored(fleet, lag=lag)
    # By hand, two trajectories a block: 2 of lag 0, 4 of lag 3, which is in (2, 4].
    assert fleet.lag_stored.to_dict()["cumulative"][:4] == [2, 2, 2, 6]
    assert fleet.lag.to_dict()["cumulative"][-1] == 0, "none was handed out"


def test_the_bounds_of_a_histogram_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert histogram.to_dict() == {"bounds": (1.0, 2.0), "cumulative": [2, 4, 5], "sum": 8.0}


def test_a_clock_that_runs_behind_makes_no_negative_transit() -> None:
    fleet = FleetStatistics(("hearts",))
    content = block(2)
    fleet.stored({entry.name: np.asarray(getattr(content, entry.name)) for entry in SCHEMA.trajectory.fields}, -3.0, 0)
    assert fleet.transit.to_dict()["sum"] == 0.0
