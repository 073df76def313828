"""The learner step: epochs of minibatch updates on one batch, and updates of the prior network."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from agent.model import AgentModel
from learner.loss import Context
from learner.plan import GRADIENT, Plan
from learner.update.flat_adamw import Flat, FlatAdamW
from learner.update.forward import is_unrolled, model_outputs
from learner.update.gradients import trunk_gradients
from learner.update.minibatches import Minibatches
from learner.update.objective import Objective, Weighed
from learner.update.priorities import priorities_of
from learner.update.sums import Key, UpdateSums, settle
from learner.update.weight_average import WeightAverage
from oatmill.settings.base import MetricsSettings

SETTLE_EVERY = 64
"""Late statistics (see `Statistic.later`) are computed at once for up to this many updates."""


@dataclass
class Record:
    """The measurements of one learner step, still on the device.

    `learner.reporting.measurements` copies them to the host in one transfer.

    Attributes:
        keys: terms and statistics, in the order of the columns of `sums`.
        sums: one `[2, n]` per update: this rank's masked sums and counts.
        unsettled: the newest updates, whose sums are not in `sums` yet.
        norms: the gradient's norm before clipping, one per update, the same on all ranks that average gradients.
        batch_keys: statistics of the whole batch, in the order of the columns of `batch_sums`.
        batch_sums: `[2, n]` of this rank, or None if the step is not reported.
        gradients: `[losses, 2]` norms and cosines on the trunk, or None if they were not measured.
        skipped: the number of updates skipped because a loss or the gradient was not finite on a rank.
        nonfinite: the number of skipped updates for each loss that was not finite; under `gradient` the
            number of updates in which only the gradient was not finite.
        stopped_early: whether target_kl ended the step before its last epoch.
        seconds: the time of each phase.
        priorities: each row's priority, `[B]`, or None if not asked for.
    """

    keys: tuple[Key, ...] = ()
    sums: list[Tensor] = field(default_factory=list)
    unsettled: list[UpdateSums] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    batch_keys: tuple[Key, ...] = ()
    batch_sums: Tensor | None = None
    gradients: Tensor | None = None
    skipped: int = 0
    nonfinite: Counter[str] = field(default_factory=Counter)
    stopped_early: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    priorities: Tensor | None = None

    def settle(self) -> None:
        """Compute the sums of the updates since the last call."""
        if not self.unsettled:
            return
        self.keys = self.unsettled[-1].keys
        self.sums.extend(settle(self.unsettled).unbind())
        self.unsettled.clear()


class Updater:
    """Trains a network on batches with the plan's losses.

    Args:
        plan: the losses and the nodes that they need.
        context: networks, settings and ranks.
        wrapped: `context.model`, wrapped by DDP if ranks average gradients.
        metrics: says how often the losses' gradients are measured (`gradient_every`).
    """

    def __init__(self, plan: Plan, context: Context, wrapped: nn.Module, metrics: MetricsSettings) -> None:
        self.plan = plan
        self.context = context
        self.wrapped = wrapped
        self.metrics = metrics
        self.objective = Objective(plan, context)
        self.parameters = [parameter for parameter in context.model.parameters() if parameter.requires_grad]
        self.before_model = len(self.parameters) - len(self.objective.model_parameters)
        # Gradients are compared on what is trained if the trunk is frozen.
        self.trunk = [weight for weight in context.model.trunk_parameters() if weight.requires_grad] or self.parameters
        self.optimizer = FlatAdamW(self.parameters, context.trainer.optimizer)
        self.prior = flat_prior(context.model, context.prior) if plan.uses_prior else None
        self.average = self.weight_average()
        self.updates = 0
        self.progressed: Callable[[], None] = lambda: None  # called after every update
        self.measured_at = -metrics.gradient_every

    def learn(self, inputs: Mapping[str, Tensor], *, learning_rate: float, report: bool, priorities: bool = False) -> Record:
        """Run one learner step: prepare the batch, then train on minibatches for several epochs.

        Args:
            inputs: tensors with the names of `learner.nodes.network.BatchInputs`.
            learning_rate: the learning rate of all updates of the step.
            report: whether to compute statistics of the whole batch.
            priorities: whether to compute each row's priority.
        """
        self.optimizer.learning_rate = learning_rate
        record = Record()
        started = time.perf_counter()
        values = self.objective.prepare(inputs)
        if report:
            record.batch_keys, record.batch_sums = self.objective.measure(values)
        if priorities:
            record.priorities = priorities_of(values)
        record.seconds["prepare"] += time.perf_counter() - started
        trainer = self.context.trainer
        limited = trainer.losses.ppo_actor.target_kl is not None
        mask_BT = inputs["mask_BT"]
        # Checked once per batch, and only on a CPU: on a GPU the check would have to wait for the
        # device.
        whole = mask_BT.device.type == "cpu" and bool(mask_BT.all())
        minibatches = Minibatches(self.objective, inputs, values, record.seconds)
        for epoch in range(trainer.epochs):
            before = self.updates
            for minibatch, is_last in minibatches.epoch():
                # In the first epoch, because target_kl may skip later ones.
                due = epoch == 0 and is_last and self.gradients_due()
                self.update(minibatch, record, measure=due, whole=whole)
            if limited or len(record.unsettled) >= SETTLE_EVERY:
                record.settle()
            if limited and self.moved_too_far(record, self.updates - before):
                record.stopped_early = True
                break
        return self.finished(record)

    def finished(self, record: Record) -> Record:
        """The record of a learner step, over all ranks where they train on their own."""
        record.settle()
        if self.average is not None:
            record.skipped, record.nonfinite = self.average.after_step(record.skipped, record.nonfinite, self.plan.losses)
        return record

    def gradients_due(self) -> bool:
        """Whether it is time to measure the losses' gradients again."""
        return self.updates - self.measured_at >= self.metrics.gradient_every

    def update(self, minibatch: Mapping[str, Tensor], record: Record, *, measure: bool, whole: bool = False) -> None:
        """Run one update. If a number is not finite on any rank, all ranks skip the update."""
        started = time.perf_counter()
        outputs = model_outputs(self.wrapped, minibatch, self.plan.needs)
        weighed = self.objective.weigh(minibatch, outputs, whole=whole)
        record.unsettled.append(weighed.update_sums)
        if measure:
            record.gradients = trunk_gradients(weighed.losses, self.trunk, self.context.reducer)
            self.measured_at = self.updates
        forwarded = time.perf_counter()
        self.optimizer.zero_grad()
        weighed.total.backward()  # type: ignore[no-untyped-call]
        backwarded = time.perf_counter()
        self.apply(record, weighed, None if is_unrolled(minibatch) else self.before_model)
        if self.average is not None:
            self.average.after_update()
        self.updates += 1
        self.progressed()
        record.seconds["forward"] += forwarded - started
        record.seconds["backward"] += backwarded - forwarded
        record.seconds["optimizer"] += time.perf_counter() - backwarded

    def apply(self, record: Record, weighed: Weighed, trained: int | None = None) -> None:
        """Clip the gradient and update network and prior, or skip the update if a number is not finite.

        Only the first `trained` parameters are updated; None means all.

        All ranks do the same, because they have the same counts of non-finite terms and, after DDP's
        mean, the same gradient.
        """
        gradient = self.optimizer.flat.gradient(trained)
        norm = torch.linalg.vector_norm(gradient)
        record.norms.append(norm)
        sound, length = weighed.sound(norm)
        if not sound:
            record.skipped += 1
            record.nonfinite.update(weighed.broken_losses() or {GRADIENT})
            return
        self.optimizer.step(gradient, length, self.context.trainer.max_grad_norm)
        if self.prior is not None:
            self.prior.array.lerp_(self.optimizer.flat.array, self.context.trainer.losses.prior_rate)

    def weight_average(self) -> WeightAverage | None:
        """What averages weights over ranks; None if gradients are averaged, or there is one rank."""
        every, reducer = self.context.trainer.average_every, self.context.reducer
        if every == 1 or reducer.world_size == 1:
            return None
        optimizer, prior = self.optimizer, [] if self.prior is None else [self.prior.array]
        arrays = [optimizer.flat.array, optimizer.first, optimizer.second, optimizer.steps, *prior]
        return WeightAverage(every, reducer, arrays)

    @property
    def acting_network(self) -> AgentModel:
        """The network that actors act with (`trainer.acting_network`)."""
        context = self.context
        return context.prior if context.trainer.acting_network == "prior" else context.model

    def weights_finite(self) -> bool:
        """Whether all trained parameters are finite. A NaN never becomes finite again."""
        return bool(torch.linalg.vector_norm(self.optimizer.flat.array).isfinite())

    def moved_too_far(self, record: Record, updates: int) -> bool:
        """Whether the mean `approx_kl` of the last `updates` updates exceeds target_kl."""
        limit = self.context.trainer.losses.ppo_actor.target_kl
        if limit is None or ("ppo_actor", "approx_kl") not in record.keys:
            return False
        column = record.keys.index(("ppo_actor", "approx_kl"))
        epoch = torch.stack(record.sums[-updates:])[:, :, column].sum(0)
        total, count = self.context.reducer.sum(epoch)
        return bool(total > limit * count)


def flat_prior(model: AgentModel, prior: AgentModel) -> Flat:
    """The prior network's copies of the trained parameters, in one array with the same layout as theirs."""
    pairs = zip(prior.parameters(), model.parameters(), strict=True)
    return Flat([old for old, new in pairs if new.requires_grad])


def freeze_unused(model: AgentModel, plan: Plan) -> None:
    """Freeze the parameters that no loss uses, so that DDP does not wait for their gradients."""
    read = {name for names in plan.reads.values() for name in names}
    needs = plan.needs
    used = {
        "policy.": "logits_BTA" in read,
        "value.": "value_raw_BT" in read,
        "transition.": needs.unroll_steps > 0,
        "model_reward.": needs.rewards_and_values,
        "model_value.": needs.rewards_and_values,
        "model_policy.": needs.policy_steps > 0,
    }
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(next((wanted for prefix, wanted in used.items() if name.startswith(prefix)), True))
