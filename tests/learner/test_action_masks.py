"""Action masks in the losses: what is never allowed is as if it did not exist, and no gradient reaches it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agent.spec import AgentSpec
from learner.update.forward import FOLLOWING_MASKS, model_outputs
from learner.update.inputs import to_inputs
from learner.update.updater import Updater
from protocol.data.batch import Batch
from protocol.data.observations import ObservationDict
from protocol.data.spaces import ACTION_MASK, DictSpace, ObservationSpace, Spaces
from protocol.data.trajectory import Array
from tests.learner.worlds import CPU, PLANS, inputs_of, learn, make_batch, make_spec, make_trainer, make_updater_of, weigh

BOTH = [((3,), (2,)), ((3, 2), (2, 2))]
"""The choices of each factor, and those of them that are ever allowed: the first ones."""


def masked_spec(sizes: tuple[int, ...], **agent: Any) -> AgentSpec:
    plain = make_spec(sizes=sizes, factored=len(sizes) > 1, **agent)
    keys = {"observation": plain.spaces.observation, ACTION_MASK: ObservationSpace("mask", (sum(sizes),), "bool")}
    return replace(plain, spaces=Spaces(DictSpace.of(keys), plain.spaces.action))


def kept_columns(sizes: tuple[int, ...], allowed: tuple[int, ...]) -> list[int]:
    """The columns of a row of logits that are ever allowed."""
    starts = np.cumsum([0, *sizes[:-1]])
    return [int(start) + choice for start, count in zip(starts, allowed, strict=True) for choice in range(count)]


def with_masks(batch: Batch, masks: Array) -> Batch:
    """The batch with `[B, T + 1, A]` masks as a key of its observations."""

    def keyed(observations: Array, mask: Array) -> ObservationDict[Array]:
        return ObservationDict({"observation": observations, ACTION_MASK: mask})

    finals = np.ones((len(batch.final_step), masks.shape[-1]), np.bool_)
    return replace(
        batch,
        observations=keyed(batch.observations, masks),
        final_observations=keyed(batch.final_observations, finals),
    )


def twins(sizes: tuple[int, ...], allowed: tuple[int, ...], plan: str, **agent: Any) -> tuple[Updater, Updater]:
    """A learner with masks, and one whose action space has what is allowed alone; the same parameters otherwise."""
    masked = make_updater_of(make_trainer(plan), masked_spec(sizes, **agent))
    plain = make_updater_of(make_trainer(plan), make_spec(sizes=allowed, factored=len(sizes) > 1, **agent))
    kept = kept_columns(sizes, allowed)
    for name in ("model", "prior"):
        theirs = {key.replace("encoder.encoder.", "encoder."): p for key, p in getattr(masked.context, name).named_parameters()}
        with torch.no_grad():
            for key, parameter in getattr(plain.context, name).named_parameters():
                source = theirs[key]
                parameter.copy_(source if source.shape == parameter.shape else source[kept])
    return masked, plain


def twin_batches(masked: Updater, plain: Updater, kept: list[int]) -> tuple[Batch, Batch]:
    spec = plain.context.model.spec
    batch = make_batch(spec, absent=True)
    size, steps = batch.rewards.shape
    choices = masked.context.model.spec.spaces.action.num_logits
    masks = np.zeros((size, steps + 1, choices), np.bool_)
    masks[..., kept] = True
    logits = np.full((size, steps, choices), 5.0, np.float32)  # what an actor has not masked is masked here
    logits[..., kept] = batch.behaviour_logits
    return with_masks(replace(batch, behaviour_logits=logits), masks), batch


@pytest.mark.parametrize(("sizes", "allowed"), BOTH)
@pytest.mark.parametrize("plan", list(PLANS))
def test_every_loss_is_that_of_the_allowed_choices_alone(plan: str, sizes: tuple[int, ...], allowed: tuple[int, ...]) -> None:
    masked, plain = twins(sizes, allowed, plan)
    kept = kept_columns(sizes, allowed)
    masked_batch, batch = twin_batches(masked, plain, kept)
    losses = []
    for updater, content in ((masked, masked_batch), (plain, batch)):
        values = updater.objective.prepare(inputs_of(updater, content))
        losses.append({key: value.item() for key, (value, _) in weigh(updater, values).parts.items()})
    assert losses[0].keys() == losses[1].keys()
    for key, value in losses[1].items():
        assert losses[0][key] == pytest.approx(value, rel=2e-4, abs=2e-5), key


@pytest.mark.parametrize("plan", list(PLANS))
def test_gradients_are_finite_and_zero_for_what_is_not_allowed(plan: str) -> None:
    sizes, allowed = (3, 2), (2, 2)
    masked, plain = twins(sizes, allowed, plan)
    masked_batch, _ = twin_batches(masked, plain, kept_columns(sizes, allowed))
    values = masked.objective.prepare(inputs_of(masked, masked_batch))
    named = {name: p for name, p in masked.context.model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(weigh(masked, values).total, list(named.values()), allow_unused=True)
    gradients = {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    policies = [name for name in gradients if name.startswith(("policy.", "model_policy."))]
    assert "policy.weight" in policies
    for name in policies:
        assert (gradients[name][2] == 0).all(), name  # the choice that is never allowed
        assert gradients[name][:2].abs().sum() > 0, name


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_masks_that_change_leave_no_probability_to_what_is_not_allowed(estimator: str) -> None:
    trainer = make_trainer("full", {"losses.cmpo.estimator": estimator})
    updater = make_updater_of(trainer, masked_spec((4,)))
    batch, masks = changing(updater)
    values = updater.objective.prepare(inputs_of(updater, batch))
    allowed = torch.from_numpy(masks[:, :-1])
    for name in ("old_log_probs_BTA", "prior_log_probs_BTA", "behaviour_log_probs_BTA"):
        assert (values[name].exp() > 0).equal(allowed), name
    assert (values["cmpo_policy_BTA"][~allowed] == 0).all()
    ratios = values["importance_ratio_BT"]
    assert torch.isfinite(ratios).all()
    for _ in range(3):
        record = learn(updater, batch)
        assert record.skipped == 0


def changing(updater: Updater) -> tuple[Batch, Array]:
    """Random masks, each of which allows what was done."""
    batch = make_batch(updater.context.model.spec)
    rng = np.random.default_rng(3)
    masks = rng.random((*batch.observations.shape[:2], 4)) < 0.4
    np.put_along_axis(masks[:, :-1], batch.actions[..., None], values=True, axis=-1)
    masks[:, -1, 0] = True
    return with_masks(batch, masks), masks


def test_single_steps_have_the_masks_of_the_steps_that_follow_them() -> None:
    updater = make_updater_of(make_trainer("full", {"shuffle": "steps"}), masked_spec((4,)))
    batch, masks = changing(updater)
    values = updater.objective.prepare(inputs_of(updater, batch))
    apart = updater.objective.drawn_from(values)
    size, steps = batch.rewards.shape
    model_steps = updater.plan.needs.unroll_steps
    row, t = 1, 2
    following = apart[FOLLOWING_MASKS].reshape(size, steps, model_steps + 1, 4)[row, t]
    assert following.numpy().tolist() == masks[row, t : t + model_steps + 1].tolist()
    single = next(updater.objective.minibatches(apart, [torch.tensor([row * steps + t])]))
    whole = updater.objective.minibatch(values, torch.tensor([row]))
    one = model_outputs(updater.wrapped, single, updater.plan.needs)
    all_steps = model_outputs(updater.wrapped, whole, updater.plan.needs)
    torch.testing.assert_close(one["model_logits_BTKA"][0, 0], all_steps["model_logits_BTKA"][0, t])
    torch.testing.assert_close(one["logits_BTA"][0, 0], all_steps["logits_BTA"][0, t])


def test_where_no_agent_was_everything_is_allowed() -> None:
    updater = make_updater_of(make_trainer("baseline"), masked_spec((3,)))
    batch = make_batch(updater.context.model.spec, absent=True)
    assert not batch.valid.all()
    inputs = to_inputs(
        with_masks(batch, np.zeros((*batch.observations.shape[:2], 3), np.bool_)),
        updater.context.model.spec,
        make_trainer(),
        CPU,
    )
    observations: Any = inputs["observations_BT1"]
    assert observations[ACTION_MASK][:, :-1].numpy().all(-1).tolist() == (~batch.valid).tolist()


def test_entropy_is_measured_against_the_allowed_choices() -> None:
    updater = make_updater_of(make_trainer("baseline"), masked_spec((4,)))
    batch, masks = changing(updater)
    values = updater.objective.prepare(inputs_of(updater, batch))
    keys, (sums, counts) = updater.objective.measure(values)
    measured = {key: float(total / count) for key, total, count in zip(keys, sums, counts, strict=True)}
    assert measured["forward", "uniform_entropy"] == pytest.approx(np.log(masks[:, :-1].sum(-1)).mean(), rel=1e-5)
