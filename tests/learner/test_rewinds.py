"""When a run goes back to its last checkpoint, and when that has been in vain too often. No networks, no files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from learner import rewinds as module
from learner.progress import Progress
from learner.rewinds import MAX_BAD_STEPS, Rewinds
from oatmill.errors import RunError, UserError

BAD: Any = SimpleNamespace(nonfinite={"cmpo": 1}, skipped=1, norms=[0.0])
SAVED = Progress(learner_step=10, env_steps=640, policy_version=11, seconds=1.0)


class Checkpoints:
    """One checkpoint, or none."""

    there = True

    def restore(self, _load: object) -> Any:
        if not self.there:
            raise UserError("no checkpoint")
        return SimpleNamespace(progress=SAVED, passed_over=[], path=None, replay={"segment": 3})


class Events:
    """Remembers the names of events."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.values: dict[str, Any] = {}

    def load(self) -> None:
        """Nothing to load."""

    def event(self, name: str, **values: Any) -> None:
        self.names.append(name)
        self.values = values


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    monkeypatch.setattr(module, "keep_batch", lambda *_args, **_options: None)
    return Events()


def made(events: Events, checkpoints: Checkpoints | None = None) -> Rewinds:
    config: Any = SimpleNamespace(run_dir=None, trainer=SimpleNamespace(max_rewinds=2))
    ranks: Any = SimpleNamespace(rank=0, world_size=1)
    found: Any = checkpoints or Checkpoints()
    reporting: Any = events
    return Rewinds(config, ranks, found, reporting)


def test_a_run_goes_back_after_three_bad_steps_in_a_row_and_at_once_when_the_weights_are_not_finite(events: Events) -> None:
    rewinds, batch = made(events), SimpleNamespace()
    steps = [False, False, True, False, False, False]  # a good one between starts the count again
    due = [rewinds.note(batch, BAD, step, finite=good, sound=True) for step, good in enumerate(steps)]  # type: ignore[arg-type]
    assert due == [False, False, False, False, False, True]
    assert events.names == ["batch_not_finite"] * 5
    assert made(events).note(batch, BAD, 1, finite=True, sound=False)  # type: ignore[arg-type]


def test_versions_and_the_clock_continue_after_a_rewind_and_the_count_of_bad_steps_starts_again(events: Events) -> None:
    rewinds, reopened = made(events), list[Progress]()
    for _ in range(MAX_BAD_STEPS):
        rewinds.note(SimpleNamespace(), BAD, 12, finite=False, sound=True)  # type: ignore[arg-type]
    before = Progress(learner_step=13, env_steps=832, policy_version=14, seconds=9.0)
    after = rewinds.rewind(before, sound=True, reopen=reopened.append)
    assert after == Progress(learner_step=10, env_steps=640, policy_version=15, seconds=9.0)
    assert reopened == [SAVED]
    assert rewinds.mark == {"segment": 3}
    assert (events.names[-1], events.values["from_step"], events.values["to_step"]) == ("rewound", 13, 10)
    assert not rewinds.note(SimpleNamespace(), BAD, 11, finite=False, sound=True)  # type: ignore[arg-type]


def test_rewinds_in_vain_and_a_missing_checkpoint_end_the_run(events: Events) -> None:
    rewinds = made(events)
    for _ in range(2):
        rewinds.rewind(SAVED, sound=False, reopen=lambda _progress: None)
    with pytest.raises(RunError, match="the weights are not finite, after 2 rewinds to the last checkpoint in a row; "):
        rewinds.rewind(SAVED, sound=False, reopen=lambda _progress: None)
    rewinds.in_a_row = 0  # a checkpoint was saved
    rewinds.rewind(SAVED, sound=False, reopen=lambda _progress: None)
    nothing = Checkpoints()
    nothing.there = False
    with pytest.raises(RunError, match="there is no checkpoint to rewind to"):
        made(events, nothing).rewind(SAVED, sound=True, reopen=lambda _progress: None)
