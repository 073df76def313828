"""Roles on hosts of their own, over a network that is slow, loses packets and is cut. Real processes, with keys."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.network.network import Direction, cut
from tests.network.places import missing_privilege
from tests.network.runs import FarRun, far_run

WHY_NOT = missing_privilege()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(WHY_NOT is not None, reason=f"no network of our own: {WHY_NOT}"),
]
SMALL = ["trainer.batch_size=8", "actors.envs_per_actor=2", "agent.hidden_sizes=[16]"]
ROWS = 2
CUT_S = 9.0
"""Longer than the 5 s after which the hub takes a silent actor for dead."""


def lines(run: FarRun) -> list[Direction]:
    """Both directions of every host."""
    return [direction for host in (run.replay, run.learner, *run.actors) for direction in (host.up, host.down)]


def test_over_a_network_that_is_late_and_loses_packets_a_run_trains_and_the_ledger_balances(tmp_path: Path) -> None:
    with far_run(tmp_path, *SMALL, seed=1) as (run, stack):
        for line in lines(run):
            line.delay_s, line.jitter_s, line.loss = 0.02, 0.005, 0.01
        run.until_trained(8 * 40, within_s=150)
        trained = run.check(run.stop(stack), unsent=2 * ROWS)
        assert len(trained) == 2 * ROWS, "all environments of both actors"
        assert run.network.packets["dropped"] > 20
        assert run.status()["expired"] == 0, "nobody was taken for dead"


@pytest.mark.parametrize("directions", ["up", "down"])
def test_an_actor_that_is_cut_off_one_way_is_missed_and_comes_back(tmp_path: Path, directions: str) -> None:
    with far_run(tmp_path, *SMALL, seed=2) as (run, stack):
        run.until_trained(8 * 5, within_s=90)
        before, victim = run.pids(), run.actors[0]
        heal = cut(getattr(victim, directions))
        began = time.monotonic()
        run.until(lambda: run.status()["live"] == 1, 15, "the actor is missed")
        done = run.trained()
        time.sleep(max(0.0, began + CUT_S - time.monotonic()))
        assert run.trained() > done, "the others train on"
        steps = run.actor(0).get("env_steps", 0)
        heal()
        back = run.until(lambda: run.status()["live"] == 2, 30, "the actor is back")
        works = back + run.until(lambda: run.actor(0).get("env_steps", 0) > steps + 64, 30, "the actor works")
        sys.stdout.write(f"cut {directions}: back after {back:.1f} s, at work after {works:.1f} s\n")  # shown by pytest -s
        run.until_trained(8 * 5, within_s=30)
        assert (run.pids(), run.actor(0)["incarnation"]) == (before, 1), "the same process, not another one in its place"
        run.check(run.stop(stack), unsent=2 * ROWS)


@pytest.mark.parametrize("directions", [("up",), ("down",), ("up", "down")], ids="+".join)
def test_a_learner_that_is_cut_off_comes_back_and_everything_goes_on(tmp_path: Path, directions: tuple[str, ...]) -> None:
    with far_run(tmp_path, *SMALL, seed=3) as (run, stack):
        run.until_trained(8 * 5, within_s=90)
        before = run.pids()
        heal = cut(*(getattr(run.learner, name) for name in directions))
        time.sleep(CUT_S)
        done, version = run.trained(), run.status()["policy_version"]
        heal()
        back = run.until(lambda: run.trained() > done, 40, "the learner trains on")
        sys.stdout.write(f"cut {'+'.join(directions)}: trains on after {back:.1f} s\n")
        run.until_trained(8 * 5, within_s=30)
        run.until(lambda: run.actor(0)["policy_version"] > version, 30, "actors act with what it published since")
        assert run.pids() == before
        run.check(run.stop(stack), unsent=2 * ROWS)


def test_connections_that_something_between_has_forgotten_are_made_anew(tmp_path: Path) -> None:
    with far_run(tmp_path, *SMALL, seed=4) as (run, stack):
        run.until_trained(8 * 5, within_s=90)
        before = run.pids()
        run.network.forget()
        # The watch's own connection does not cross the network.
        run.until(lambda: run.status()["live"] == 0, 15, "the actors are missed")
        done, steps = run.trained(), [run.actor(number).get("env_steps", 0) for number in range(2)]
        back = run.until(lambda: run.status()["live"] == 2 and run.trained() > done + 8, 45, "everybody is back")
        sys.stdout.write(f"forgotten connections: back after {back:.1f} s\n")
        run.until(lambda: all(run.actor(n).get("env_steps", 0) > steps[n] + 64 for n in range(2)), 30, "both actors work")
        assert run.pids() == before, "nobody had to be started again"
        run.check(run.stop(stack), unsent=2 * ROWS)
