"""How long a learner waits for a batch: time in which it was itself asleep does not count."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from learner.learner import Learner
from oatmill.errors import RunError

DATA_TIMEOUT_S = 20.0


class Batches:
    """Brings nothing; each look takes a while."""

    def __init__(self, pass_time: Any, seconds: list[float]) -> None:
        self.pass_time, self.seconds = pass_time, seconds

    def request(self, _step: int) -> None:
        """Asked for."""

    def poll(self, _timeout_s: float) -> None:
        self.pass_time(self.seconds.pop(0))


def waiting(monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> Learner:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def pass_time(passed: float) -> None:
        now[0] += passed

    learner: Any = Learner.__new__(Learner)
    learner.config = SimpleNamespace(trainer=SimpleNamespace(data_timeout=DATA_TIMEOUT_S, batch_size=8))
    learner.progress = SimpleNamespace(learner_step=0)
    learner.batches = Batches(pass_time, seconds)
    learner.watchdog = SimpleNamespace(beat=lambda: None)
    learner.ranks = SimpleNamespace(world_size=1, lowest=lambda *flags: flags)
    learner.control = SimpleNamespace(state=SimpleNamespace(stop=False, desired_actors=2), request=lambda *_: {})
    learner.tell_hub = lambda: None
    learner.stop = SimpleNamespace(is_set=False)
    return learner  # type: ignore[no-any-return]


def test_time_asleep_does_not_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = waiting(monkeypatch, [1.0, 3600.0, 1.0, 1.0])  # then `pop` fails: 5 of the 3600 s count, so 8 of 20
    with pytest.raises(IndexError):
        learner.next_batch()


def test_a_learner_that_is_awake_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = waiting(monkeypatch, [1.0] * 22)
    with pytest.raises(RunError, match="no batch of 8 trajectories arrived within 20 s"):
        learner.next_batch()


def test_a_run_scaled_to_no_actors_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    learner: Any = waiting(monkeypatch, [1.0] * 50)
    learner.control.state.desired_actors = 0
    with pytest.raises(IndexError):
        learner.next_batch()


@pytest.mark.parametrize("learner_step", [0, 3])
def test_what_was_learned_is_saved_before_a_learner_gives_up(learner_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learner: Any = waiting(monkeypatch, [1.0] * 22)
    saved: list[int] = []
    learner.progress.learner_step = learner_step
    learner.save = lambda: saved.append(learner_step)
    with pytest.raises(RunError, match="no batch of 8 trajectories"):
        learner.next_batch()
    assert saved == ([learner_step] if learner_step else [])
