from __future__ import annotations

import pytest

from learner import step_time
from learner.step_time import step_seconds
from tests.learner.worlds import make_spec, make_trainer, make_updater_of


@pytest.mark.parametrize(("prepare_every", "prepares"), [("batch", 1), ("epoch", 3), (1, 6), (4, 2), (100, 1)])
def test_the_time_of_a_learner_step_has_every_computation_of_the_targets(
    prepare_every: object, prepares: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_time, "pass_seconds", lambda *_given, rows: (0.5 * rows, 0.25 * rows))
    changes = {"batch_size": 6, "epochs": 3, "minibatches": 2, "prepare_every": prepare_every}
    trainer, spec = make_trainer("baseline", changes), make_spec()
    plan = make_updater_of(trainer, spec).plan
    assert step_seconds(plan, spec, trainer, unroll_length=7, threads=1) == pytest.approx(6 * (0.5 * prepares + 3 * 0.25))
