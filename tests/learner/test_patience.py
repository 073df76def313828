"""How long a learner waits for a batch (time in which it was itself asleep does not count), and why it stops waiting."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from learner.learner import STOPPED_WITHIN_S, Learner, save_at_last
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
    learner.save = lambda **_: saved.append(learner_step)
    with pytest.raises(RunError, match="no batch of 8 trajectories"):
        learner.next_batch()
    assert saved == ([learner_step] if learner_step else [])


@pytest.mark.parametrize(
    ("asked", "over", "others", "follows"),
    [
        (True, False, (False, True, True, True), True),
        (False, False, (False, False, True, True), True),
        (False, True, (False, True, True, True), False),
        (False, False, (False, True, False, True), False),  # only the other rank has heard that the run is over
        (False, False, (False, False, False, True), False),  # the run is over, and its processes get signals
    ],
)
def test_a_signal_is_told_apart_from_the_end_of_the_run(
    asked: bool, over: bool, others: tuple[bool, bool, bool, bool], follows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the other of two ranks says: it has a batch, it got no signal, the run is not over, it is in time.
    learner: Any = waiting(monkeypatch, [1.0])
    learner.ranks = SimpleNamespace(world_size=2, lowest=lambda *own: [min(pair) for pair in zip(own, others, strict=True)])
    learner.control.state.stop, learner.stop.is_set = over, asked
    assert learner.next_batch() is None
    assert learner.follows_a_signal == follows


@pytest.mark.parametrize("stopped", [False, True])
def test_the_last_checkpoint_is_tried_until_it_is_written_and_after_a_stop_for_a_limited_time(
    stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner: Any = waiting(monkeypatch, [])
    now, tried = [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    learner.ranks.agree = lambda *flags: flags

    def save(*, then: str) -> bool:
        tried.append(then)
        learner.control.state.stop = stopped and len(tried) > 100
        return len(tried) == 1000

    learner.save = save
    assert save_at_last(learner) == (not stopped)
    assert len(tried) == (100 + round(STOPPED_WITHIN_S) + 3 if stopped else 1000)
    assert tried[0].startswith("the run waits until it can be written")
    assert set(tried[1:]) == {""}, "the user is told once"
