"""One slow or silent actor among several, with real processes. `pytest -s -m slow` on this file prints the rates."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from runner.operator_client import operator_client
from tests.system.real_runs import Train, training

STEP_S, UNROLL = 0.005, 16
NOISE = 0.9
"""A measured rate may be lower than the expected one by this factor, because the machine may be busy."""


def uneven(folder: Path, *, actors: int, fast: int, slow_s: float, batch: int = 16) -> list[str]:
    """Settings of an endless run with some fast actors; the others are slow."""
    kwargs = {"folder": str(folder), "fast": fast, "fast_s": STEP_S, "slow_s": slow_s}
    return [
        *(f"actors.count={actors}", "actors.envs_per_actor=1", f"actors.unroll_length={UNROLL}"),
        *(
            "env.kind=factory",
            "env.factory=tests.actors.environments.sleeping_environment:Sleeper",
            f"env.kwargs={json.dumps(kwargs)}",
        ),
        *("agent.hidden_sizes=[16]", f"trainer.batch_size={batch}", "trainer.epochs=1", "trainer.minibatches=1"),
        *("trainer.total_timesteps=1000000000", "trainer.optimizer.schedule=constant", "metrics.report_every=1"),
    ]


def line(train: Train) -> dict[str, Any]:
    """The newest complete line of metrics.jsonl."""
    path = train.run_dir / "metrics.jsonl"
    lines = [text for text in path.read_text().split("\n")[:-1] if text] if path.exists() else []
    return json.loads(lines[-1]) if lines else {"learner_step": 0, "env_steps": 0, "seconds": 0.0}


def rate(train: Train, seconds: float, *, settled: int = 2) -> float:
    """Env steps per second over some time, which begins after a number of learner steps."""
    before = line(train)
    train.until(lambda: line(train)["learner_step"] >= before["learner_step"] + settled, within_s=90.0)
    before = line(train)
    time.sleep(seconds)
    after = line(train)
    passed = after["seconds"] - before["seconds"]
    return float((after["env_steps"] - before["env_steps"]) / passed) if passed else 0.0


def status(train: Train) -> dict[str, Any]:
    """The hub's status."""
    with operator_client(train.run_json()["control"], None) as hub:
        answer = hub.status()
    assert answer is not None
    return dict(answer)


@pytest.mark.slow  # tests/replay/ingest/actors/test_slow_actors.py and tests/learner/reporting test it with a simulated fleet
def test_a_silent_actor_is_named_and_the_other_continues_at_its_own_rate(tmp_path: Path) -> None:
    # A step of the silent actor takes 3 s. It sends heartbeats between its steps, and a block after 48 s.
    settings = uneven(tmp_path, actors=1, fast=1, slow_s=3.0, batch=8)
    with training(tmp_path, *settings, "replay.silent_after=2") as train:
        alone = rate(train, 2.0)
        with operator_client(train.run_json()["control"], None) as hub:
            hub.scale(2)
        train.until(lambda: any(event["event"] == "actor_silent" for event in train.events()))
        together = rate(train, 2.0)
        (event,) = (event for event in train.events() if event["event"] == "actor_silent")
        assert event["actor"] == 1
        assert "sends heartbeats but no trajectory for" in event["reason"]
        found = status(train)
        assert list(found["fleet"]["silent_actors"]) == ["1"]
        assert [actor["silent"] for actor in found["actors"]] == [False, True]
        assert "actor_silent" in line(train)["red_flags"]
    assert together >= NOISE * alone


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("actors", [2, 4, 8])
def test_with_one_actor_a_hundred_times_slower_the_rate_is_that_of_the_others(tmp_path: Path, actors: int) -> None:
    rates = []
    for name, fast in (("alike", actors), ("uneven", actors - 1)):
        folder = tmp_path / name
        folder.mkdir()
        with training(folder, *uneven(folder, actors=actors, fast=fast, slow_s=100 * STEP_S, batch=4 * actors)) as train:
            rates.append(rate(train, 20.0))
    print(f"{actors} actors: alike {rates[0]:.0f}, one slow {rates[1]:.0f}, ratio {rates[1] / rates[0]:.3f}")  # noqa: T201
    assert rates[1] >= NOISE * (actors - 1) / actors * rates[0]


@pytest.mark.slow
def test_when_all_actors_are_silent_the_run_ends_with_a_line_that_names_them(tmp_path: Path) -> None:
    with training(tmp_path, *uneven(tmp_path, actors=2, fast=0, slow_s=3.0), "trainer.data_timeout=8") as train:
        assert train.end() == 1
        last = train.errors.read_text().splitlines()[-1]
        assert "within 8 s; actors 0, 1 sent heartbeats but no trajectory; check the actors' logs" in last
