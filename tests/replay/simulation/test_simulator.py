from __future__ import annotations

import pytest

from tests.replay.simulation.promises import simulate
from tests.replay.simulation.weights_simulator import simulate_weights

SEEDS, SLOW_SEEDS, SEEDS_A_TEST = 1_000, 10_000, 250


def run_seeds(first: int, last: int) -> None:
    """A failure names its seed: `python -m tests.replay.simulation.simulate SEED` runs it again."""
    for seed in range(first, last):
        try:
            simulate(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_trajectories_are_stored_once_in_order_within_the_budget_and_all_accounted_for(first: int) -> None:
    run_seeds(first, first + SEEDS_A_TEST)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + SLOW_SEEDS, SEEDS_A_TEST))
def test_every_promise_is_kept_with_ten_thousand_seeds(first: int) -> None:
    run_seeds(first, first + SEEDS_A_TEST)


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = simulate(7), simulate(7)
    assert first.core.report()["fleet"] == second.core.report()["fleet"]
    assert first.stored == second.stored


def test_versions_never_decrease_and_weights_are_never_damaged() -> None:
    for seed in range(200):
        simulate_weights(seed)


@pytest.mark.slow
def test_versions_never_decrease_and_weights_are_never_damaged_with_many_seeds() -> None:
    for seed in range(200, 10_000):
        simulate_weights(seed)
