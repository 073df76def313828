"""The teacher loss: against a NumPy transcription, its gradient, what has none, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent.spec import AgentSpec
from learner.checkpoints.files import save
from learner.loss import Question, Term
from learner.losses.teacher import Teacher, choose
from learner.plan import make_plan
from learner.progress import Progress
from learner.settings import TrainerSettings
from learner.update.schedules import coefficient_factors
from oatmill.errors import SettingsError, UserError
from protocol.data.trajectory import Array
from tests.learner.oracles import gaussian_kl, softmax_kl
from tests.learner.worlds import inputs_of, learn, make_batch, make_spec, make_trainer, make_updater_of

OWN = {"extra_losses": ("learner.losses.teacher:choose",)}


def teacher_of(folder: Path, spec: AgentSpec) -> Path:
    """A checkpoint of another network of the same environment."""
    return save(folder, make_updater_of(make_trainer("baseline"), spec), Progress(1, 42, 2, 1.0), keep=1)


def with_teacher(teacher: Path | None, changes: dict[str, Any] | None = None) -> TrainerSettings:
    return make_trainer("baseline", OWN | {"teacher.policy": teacher and str(teacher)} | (changes or {}))


@pytest.mark.parametrize("spaces", [{"sizes": (3,)}, {"sizes": (3, 2), "factored": True}, {"sizes": (), "numbers": 2}])
def test_the_kl_is_that_of_the_transcription(tmp_path: Path, spaces: dict[str, Any]) -> None:
    teacher_spec, spec = make_spec(hidden_sizes=(5,), **spaces), make_spec(**spaces)
    updater = make_updater_of(with_teacher(teacher_of(tmp_path, teacher_spec), {"teacher.kl_coef": 0.7}), spec)
    loss = next(loss for loss in updater.objective.losses if isinstance(loss, Teacher))
    inputs = inputs_of(updater, make_batch(spec))
    written = loss.prepare(observations_BT1=inputs["observations_BT1"])
    rows_BTP = torch.randn(written["teacher_log_probs_BTA"].shape, generator=torch.Generator().manual_seed(3))
    term = loss.compute(logits_BTA=rows_BTP, mask_BT=inputs["mask_BT"], **written)["kl"]
    assert isinstance(term, Term)
    assert term.coef == 0.7
    teacher_rows = loss.teacher.policy(loss.teacher.encoded(inputs["observations_BT1"][:, :-1]))
    expected = kl_of(teacher_rows.numpy().astype(np.float64), rows_BTP.numpy().astype(np.float64), spec)
    np.testing.assert_allclose(term.value.detach().numpy(), expected, rtol=2e-5, atol=1e-6)


def kl_of(teacher: Array, student: Array, spec: AgentSpec) -> Array:
    action, start, total = spec.spaces.action, 0, np.zeros(teacher.shape[:-1])
    for size in action.sizes:
        total = total + softmax_kl(teacher[..., start : start + size], student[..., start : start + size])
        start += size
    return total + gaussian_kl(teacher[..., start:], student[..., start:]) if action.dimensions else total


def test_the_gradient_leads_to_the_teacher_and_none_reaches_it(tmp_path: Path) -> None:
    spec = make_spec()
    updater = make_updater_of(with_teacher(teacher_of(tmp_path, make_spec(hidden_sizes=(5,)))), spec)
    loss = next(loss for loss in updater.objective.losses if isinstance(loss, Teacher))
    inputs = inputs_of(updater, make_batch(spec))
    written = loss.prepare(observations_BT1=inputs["observations_BT1"])
    logits = torch.zeros_like(written["teacher_log_probs_BTA"]).requires_grad_()
    term = loss.compute(logits_BTA=logits, mask_BT=inputs["mask_BT"], **written)["kl"]
    (gradient,) = torch.autograd.grad(term.value.sum(), logits)
    # d KL(p || softmax(z)) / dz = softmax(z) - p, and softmax(0) is 1/3 each.
    np.testing.assert_allclose(gradient.numpy(), 1 / 3 - written["teacher_log_probs_BTA"].exp().detach().numpy(), atol=1e-6)
    before = [parameter.clone() for parameter in loss.teacher.parameters()]
    learn(updater, make_batch(spec))
    assert all(torch.equal(one, other) for one, other in zip(before, loss.teacher.parameters(), strict=True))


def test_training_towards_a_teacher_brings_the_policy_to_it(tmp_path: Path) -> None:
    spec = make_spec()
    changes = {"losses.ppo_actor.enabled": False, "teacher.kl_coef": 10.0}
    updater = make_updater_of(with_teacher(teacher_of(tmp_path, make_spec(hidden_sizes=(5,))), changes), spec)
    batch = make_batch(spec)

    def kl() -> float:
        record = learn(updater, batch)
        column = record.keys.index(("teacher", "kl"))
        total, count = torch.stack(record.sums).sum(0)[:, column].tolist()
        return float(total / count)

    first = kl()
    for _ in range(30):
        last = kl()
    assert last < 0.3 * first


def test_its_coefficient_falls_to_zero_unless_a_schedule_says_otherwise(tmp_path: Path) -> None:
    trainer, spec = with_teacher(teacher_of(tmp_path, make_spec())), make_spec()
    trainer.total_timesteps = 100
    plan = make_plan(trainer, spec.settings, spec.spaces.action)
    assert coefficient_factors(trainer, plan.descriptors, 75)["teacher", ""] == 0.25
    trainer.coef_schedules = {"teacher": "constant"}
    assert coefficient_factors(trainer, plan.descriptors, 75)["teacher", ""] == 1.0


def test_what_cannot_be_a_teacher_is_one_line(tmp_path: Path) -> None:
    spec = make_spec()
    action = spec.spaces.action
    with pytest.raises(SettingsError, match=r"needs trainer.teacher.policy=RUN"):
        choose(Question(with_teacher(None), spec.settings, action))
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"^trainer.teacher.policy: {missing} is not a checkpoint"):
            choose(Question(with_teacher(missing), spec.settings, action))
    for folder, other, message in (
        ("core", make_spec(core="gru"), "agent.core=gru"),
        ("actions", make_spec(sizes=(5,)), "has other actions than this run"),
    ):
        trainer = with_teacher(teacher_of(tmp_path / folder, other))
        with pytest.raises(UserError, match=message):
            choose(Question(trainer, spec.settings, action))
