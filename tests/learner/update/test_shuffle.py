"""Minibatches of single steps: the same objective as whole trajectories give, drawn from everywhere in the batch."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.loss import Loss, Term, Terms
from learner.update.single_steps import by_step
from oatmill.errors import SettingsError, UserError
from tests.learner.update.test_objective import objective_of
from tests.learner.worlds import PLANS, inputs_of, learn, make_batch, make_spec, make_trainer, make_updater_of, parameters_of

WAYS = ("trajectories", "steps")
ONE_UPDATE = {"epochs": 1, "minibatches": 1}


@pytest.mark.parametrize("trunk", ["shared", "separate"])
@pytest.mark.parametrize(("sizes", "factored"), [((3,), False), ((2, 3), True)])
@pytest.mark.parametrize("arm", PLANS)
def test_one_minibatch_of_all_steps_is_one_of_all_trajectories(
    arm: str, sizes: tuple[int, ...], factored: bool, trunk: str
) -> None:
    spec = make_spec(sizes=sizes, factored=factored, value_trunk=trunk)
    by = {shuffle: make_updater_of(make_trainer(arm, ONE_UPDATE | {"shuffle": shuffle}), spec) for shuffle in WAYS}
    batch = make_batch(spec, absent=True)
    records = [learn(updater, batch) for updater in by.values()]
    assert records[0].keys == records[1].keys
    torch.testing.assert_close(records[0].sums, records[1].sums, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(records[0].norms, records[1].norms, atol=1e-4, rtol=1e-4)
    assert records[1].gradients is not None
    torch.testing.assert_close(records[0].gradients, records[1].gradients, atol=1e-4, rtol=1e-3)


def test_rows_that_count_for_less_do_so_in_each_of_their_steps() -> None:
    spec = make_spec()
    sums = {}
    for shuffle in WAYS:
        for importance in (None, torch.tensor([0.1, 1.0, 0.5, 0.2, 0.9, 0.3])):
            updater = make_updater_of(make_trainer("full", ONE_UPDATE | {"shuffle": shuffle}), spec)
            inputs = inputs_of(updater, make_batch(spec))
            if importance is not None:
                inputs["importance_B"] = importance
            sums[shuffle, importance is None] = updater.learn(inputs, learning_rate=0.0, report=False).sums[0]
    torch.testing.assert_close(sums["trajectories", False], sums["steps", False], atol=1e-4, rtol=1e-4)
    assert (sums["steps", False] - sums["steps", True]).abs().max() > 0.1


def test_every_step_is_used_once_an_epoch_beside_others_than_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    # 6 trajectories of 7 steps in 4 parts: 11, 11, 10 and 10.
    updater = make_updater_of(make_trainer("baseline", {"epochs": 2, "minibatches": 4, "shuffle": "steps"}), spec)
    batch = make_batch(spec)
    step_of = {
        step.tobytes(): row * 7 + t for row, steps in enumerate(batch.observations[:, :-1]) for t, step in enumerate(steps)
    }
    used: list[list[int]] = []
    update = updater.update

    def spy(minibatch: Any, *arguments: Any, **named: Any) -> None:
        used.append([step_of[step.numpy().tobytes()] for step in minibatch["observations_BT"][:, 0]])
        update(minibatch, *arguments, **named)

    monkeypatch.setattr(updater, "update", spy)
    record = learn(updater, batch)
    assert [len(rows) for rows in used] == 2 * [11, 11, 10, 10]
    for epoch in (used[:4], used[4:]):
        assert sorted(chain(*epoch)) == list(range(42))
    assert used[:4] != used[4:]
    assert len({row // 7 for row in used[0]}) > 2, "the steps of a part come from several trajectories"
    assert record.gradients is not None


@pytest.mark.parametrize("minibatches", [4, 10, 42])
def test_an_epoch_has_as_many_minibatches_as_the_setting_says(minibatches: int) -> None:
    spec = make_spec()  # 6 trajectories of 7 steps; parts of 42 / 10 = 5 steps, rounded up, would make 9 of 10
    changed = {"epochs": 2, "minibatches": minibatches, "shuffle": "steps"}
    updater = make_updater_of(make_trainer("baseline", changed), spec)
    learn(updater, make_batch(spec))
    assert updater.updates == 2 * minibatches


def test_target_kl_ends_training_after_an_epoch_of_uneven_parts() -> None:
    spec = make_spec()
    changes = {"epochs": 3, "minibatches": 5, "shuffle": "steps", "losses.ppo_actor.target_kl": 1e-6}
    updater = make_updater_of(make_trainer("baseline", changes), spec)
    record = learn(updater, make_batch(spec, size=1, steps=6), learning_rate=0.05)
    assert (record.stopped_early, len(record.sums)) == (True, 5)


def test_what_was_trained_differs_from_minibatches_of_trajectories() -> None:
    spec = make_spec()
    by = [make_updater_of(make_trainer("baseline", {"shuffle": shuffle}), spec) for shuffle in WAYS]
    for updater in by:
        learn(updater, make_batch(spec))
    first, second = (parameters_of(updater) for updater in by)
    assert any((first[name] != second[name]).any() for name in first)


def test_tensors_are_split_into_steps_by_the_axes_in_their_names() -> None:
    x = torch.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert by_step("x_BTA", x, 3).shape == (6, 1, 4)
    assert by_step("x_BTA", x, 3)[4, 0].tolist() == x[1, 1].tolist()
    assert by_step("x_BT1", x, 2).shape == (4, 2, 4)
    assert by_step("x_BT1", x, 2)[3].tolist() == x[1, 1:3].tolist()
    assert by_step("x_BT", x[..., 0], 3).tolist() == [[0], [4], [8], [12], [16], [20]]
    assert by_step("x_B", torch.tensor([5, 6]), 3).tolist() == [5, 5, 5, 6, 6, 6]
    assert by_step("core_state_BS", torch.zeros(2, 0), 3).shape == (6, 0)
    assert by_step("sigma", torch.tensor(2.0), 3).item() == 2.0


def test_a_tensor_without_axes_in_its_name_raises_an_error() -> None:
    class Nameless(Loss):
        name = "nameless"

        def compute(self, *, my_weights: Tensor) -> Terms:
            return {"x": Term(my_weights, my_weights > 0, 1.0)}

    values = {"mask_BT": torch.ones(2, 3, dtype=torch.bool), "my_weights": torch.ones(2, 3)}
    with pytest.raises(
        UserError, match=r"trainer\.shuffle=steps needs tensor names that end with their axes, .* got my_weights"
    ):
        objective_of(Nameless).single_steps(values, {"actions_BT": torch.zeros(2, 3)})


def test_single_steps_with_a_recurrent_core_raise_an_error() -> None:
    with pytest.raises(
        SettingsError, match=r"trainer\.shuffle=steps .* agent\.core=gru .* set trainer\.shuffle to trajectories"
    ):
        make_updater_of(make_trainer("baseline", {"shuffle": "steps"}), make_spec(core="gru"))
