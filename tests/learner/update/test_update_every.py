"""The dynamics model trained in every Nth update: the other updates neither unroll it nor change what else is trained."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learner.ranks.reduce import OneRank
from learner.reporting.measurements import Measurements
from learner.update.forward import STARTS, model_outputs
from learner.update.objective import Weighed
from learner.update.updater import Record, Updater
from tests.learner.worlds import inputs_of, learn, make_batch, make_spec, make_trainer, make_updater_of

MODEL = ("dynamics", "muesli_model")


def updater_of(every: int, arm: str = "full", **changes: object) -> Updater:
    own = {"minibatches": 3, "epochs": 2, "losses.dynamics.update_every": every}
    return make_updater_of(make_trainer(arm, own | changes), make_spec())


def counts_of(updater: Updater, key: tuple[str, str]) -> list[bool]:
    """Whether each update of a learner step has values of a term."""
    record = learn(updater, make_batch(updater.context.model.spec))
    return (torch.stack(record.sums)[:, 1, record.keys.index(key)] > 0).tolist()


@pytest.mark.parametrize(
    ("every", "expected"),
    [(1, [True] * 6), (2, [True, False, True] * 2), (3, [False, False, True] * 2), (9, [False, False, True] * 2)],
)
def test_the_last_update_of_each_epoch_and_every_nth_before_it_has_the_model(every: int, expected: list[bool]) -> None:
    for key in (("dynamics", "returns"), ("dynamics", "reward_1"), ("muesli_model", "cross_entropy")):
        assert counts_of(updater_of(every), key) == expected
    assert counts_of(updater_of(every), ("ppo_actor", "policy")) == [True] * 6


def test_targets_that_are_computed_again_within_an_epoch_leave_the_updates_with_the_model_as_they_are() -> None:
    for prepare_every in (1, 2):
        updater = updater_of(2, prepare_every=prepare_every)
        assert counts_of(updater, ("dynamics", "returns")) == [True, False, True] * 2


def test_the_model_is_unrolled_in_these_updates_only(monkeypatch: pytest.MonkeyPatch) -> None:
    updater = updater_of(3)
    transition, unrolls = updater.context.model.transition, 0

    def unroll(*given: object) -> Tensor:
        nonlocal unrolls
        unrolls += 1
        return type(transition).unroll(transition, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(transition, "unroll", unroll)
    learn(updater, make_batch(updater.context.model.spec))
    assert unrolls == 2


def gradients(updater: Updater, weighed: Weighed) -> dict[str, Tensor | None]:
    named = {name: p for name, p in updater.context.model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(weighed.total, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def test_an_update_without_the_model_is_that_of_the_other_losses_and_one_with_it_is_the_whole_one() -> None:
    every, whole = updater_of(2), updater_of(1)
    values = every.objective.prepare(inputs_of(every, make_batch(every.context.model.spec)))
    parts = list(torch.arange(6).chunk(2))
    drawn_from = every.objective.trajectories(values)
    without, having = every.objective.minibatches(drawn_from, parts)
    assert len(without[STARTS]) == 0
    assert STARTS not in having
    found = {}
    for name, minibatch in (("without", without), ("with", having)):
        weighed = every.objective.weigh(minibatch, model_outputs(every.wrapped, minibatch, every.plan.needs))
        found[name] = gradients(every, weighed)
        plain = {key: value for key, value in minibatch.items() if key != STARTS}
        expected = whole.objective.weigh(plain, model_outputs(every.wrapped, plain, whole.plan.needs)).losses
        for loss, value in weighed.losses.items():
            wanted = torch.zeros(()) if name == "without" and loss in MODEL else expected[loss]
            torch.testing.assert_close(value, wanted, msg=f"{loss} {name} the model")
    assert every.objective.coefs.keys() == whole.objective.coefs.keys()
    model = [name for name in found["with"] if name.startswith(("transition.", "model_"))]
    assert all(found["without"][name] is None for name in model)
    assert all(found["with"][name] is not None for name in model)


def test_an_update_without_the_model_leaves_its_weights_and_their_moments_as_they_are() -> None:
    updater = updater_of(2)
    learn(updater, make_batch(updater.context.model.spec))  # so that there are moments which would move them
    values = updater.objective.prepare(inputs_of(updater, make_batch(updater.context.model.spec)))
    without, having = updater.objective.minibatches(updater.objective.trajectories(values), list(torch.arange(6).chunk(2)))
    optimizer = updater.optimizer
    for minibatch, changes in ((without, False), (having, True)):
        arrays = (optimizer.flat.array, optimizer.first, optimizer.second)
        before = [[view.clone() for view in optimizer.flat.views(array)] for array in arrays]
        updater.update(minibatch, Record(), measure=False)
        for array, old in zip(arrays, before, strict=True):
            moved = [not torch.equal(*pair) for pair in zip(optimizer.flat.views(array), old, strict=True)]
            assert any(moved[: updater.before_model])
            assert any(moved[updater.before_model :]) == changes


def test_a_report_is_over_the_updates_that_have_the_loss() -> None:
    updater = updater_of(3, epochs=1)
    measurements = Measurements(updater.plan.losses, OneRank())
    record = learn(updater, make_batch(updater.context.model.spec))
    measurements.add(record)
    report = measurements.report(updater.objective.coefs)
    column = record.keys.index(("dynamics", "returns"))
    total, count = torch.stack(record.sums)[-1, :, column].tolist()
    assert report.losses["dynamics"].terms["returns"].raw == pytest.approx(total / count)
    lengths = {loss: len(report.update_means[loss, term]) for loss, term in (("dynamics", "returns"), ("ppo_actor", "policy"))}
    assert (lengths, report.updates) == ({"dynamics": 1, "ppo_actor": 3}, 3)
    assert not any(math.isnan(loss.gradient_norm) for loss in report.losses.values())


def test_without_the_model_the_setting_changes_nothing() -> None:
    first, second = updater_of(1, "baseline"), updater_of(3, "baseline")
    batch = make_batch(first.context.model.spec)
    for updater in (first, second):
        learn(updater, batch)
    torch.testing.assert_close(first.optimizer.flat.array, second.optimizer.flat.array, atol=0, rtol=0)
