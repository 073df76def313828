"""Kickstarting: the KL from a frozen policy, the teacher, to the trained one, with a coefficient that falls to 0.

oatmill train RECIPE trainer.extra_losses='[learner.losses.teacher:choose]' trainer.teacher.policy=runs/old

Source: Schmitt et al. 2018, arXiv:1803.03835, section 3.1; its cross-entropy differs from this KL by the teacher's entropy,
which has no gradient.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from torch import Tensor

from agent.checkpoint_manifest import find_checkpoint, open_manifest
from agent.loading import load
from agent.masks import allowed_in
from agent.spec import AgentSpec
from learner.loss import Choice, Context, Loss, Question, Statistic, Term, Terms
from learner.loss_descriptor import LossDescriptor
from oatmill.errors import SettingsError, UserError, asked_by
from oatmill.settings.flat import flatten_settings

NAME = "teacher"


class TeacherWrites(TypedDict):
    """Constants of the batch."""

    teacher_log_probs_BTA: Tensor  # the teacher's normalised rows


class Teacher(Loss):
    """KL(teacher || policy) at every valid step, in nats. No gradient reaches the teacher."""

    name = NAME

    def __init__(self, context: Context) -> None:
        """Load the teacher.

        Raises:
            UserError: if there is no such checkpoint, or it has other spaces than this run.
        """
        settings, model = context.trainer.teacher, context.model
        self.coef, self.policies = settings.kl_coef, context.policies
        device = next(model.parameters()).device
        # The encoder of this run is code that the user trusts already.
        with asked_by("trainer.teacher.policy"):
            path = find_checkpoint(Path(str(settings.policy)))
            trust = open_manifest(path)["agent"]["settings"]["encoder"] == model.spec.settings.encoder
            teacher = load(path, trust=trust)
        self.teacher = teacher.model.requires_grad_(requires_grad=False).to(device)
        ours, theirs = (flatten_settings(spec.spaces.to_dict()) for spec in (model.spec, self.teacher.spec))
        for name in ours.keys() | theirs.keys():
            if ours.get(name) != theirs.get(name):
                raise UserError(
                    f"trainer.teacher.policy={settings.policy} was trained in another environment: expected {name} "
                    f"{ours.get(name)}, got {theirs.get(name)}; use a policy with the same observations and actions"
                )

    def prepare(self, *, observations_BT1: Tensor) -> TeacherWrites:
        """Ask the teacher about every step, once per batch."""
        latent_BT1H = self.teacher.encoded(observations_BT1)
        allowed = allowed_in(observations_BT1)
        rows_BTA = self.teacher.policy_rows(latent_BT1H[:, :-1], allowed)
        return {"teacher_log_probs_BTA": self.policies.normalise(rows_BTA)}

    def compute(self, *, logits_BTA: Tensor, teacher_log_probs_BTA: Tensor, mask_BT: Tensor) -> Terms:
        """The term `kl`, and the statistic `teacher_entropy`."""
        kl_BT = self.policies.kl(teacher_log_probs_BTA, self.policies.normalise(logits_BTA))
        return {
            "kl": Term(kl_BT, mask_BT, self.coef),
            "teacher_entropy": Statistic.later(self.policies.entropy, (teacher_log_probs_BTA,), mask_BT),
        }


DESCRIPTOR = LossDescriptor(
    NAME,
    "Trains the policy towards a frozen teacher, less and less.",
    coefficients={"kl": "trainer.teacher.kl_coef"},
    terms=("kl", "teacher_entropy"),
    schedule="linear",
    color="#5b7f95",
)


def choose(question: Question) -> Choice | None:
    """The loss, if there is a teacher.

    Raises:
        SettingsError: if no teacher is named.
        UserError: if it has other actions than this run, or a recurrent core.
    """
    policy = question.trainer.teacher.policy
    if policy is None:
        raise SettingsError("the loss teacher needs trainer.teacher.policy=RUN, a run folder or a checkpoint, got null")
    with asked_by("trainer.teacher.policy"):
        spec = AgentSpec.from_dict(open_manifest(find_checkpoint(Path(policy)))["agent"])
    if spec.settings.core != "none":
        raise UserError(
            f"trainer.teacher.policy={policy} has agent.core={spec.settings.core}, but batches do not store its recurrent "
            "state; use a teacher with agent.core=none"
        )
    if spec.spaces.action != question.action:
        raise UserError(
            f"trainer.teacher.policy={policy} has other actions than this run; use a policy of the same environment"
        )
    return Choice(Teacher, notes=(f"the teacher is {policy}",), descriptor=DESCRIPTOR)
