"""Combines all losses: coefficients, masks, averages over ranks, and the sums for the report."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from math import isfinite
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from agent.masks import allowed_of
from agent.model import ModelOutputs
from learner.loss import OWN_NUMBERS, Context, Loss, Node, Statistic, Term, method_reads
from learner.nodes.masks import ahead
from learner.plan import Plan
from learner.ranks.reduce import OneRank, Reducer
from learner.update.forward import FOLLOWING_ACTIONS, FOLLOWING_MASKS, KEY, STARTS, is_unrolled, keyed
from learner.update.schedules import ALL_TERMS
from learner.update.single_steps import by_step
from learner.update.starts import Starts, draw, reads_unroll
from learner.update.sums import Key, UpdateSums, as_tensor, counts_of, masked_sum, settle
from oatmill.errors import UserError

IMPORTANCE = "importance_B"
"""The weight of each row's terms; no loss reads it."""

SMALL_BYTES = 2**18
"""Arrays up to this size are shuffled once per epoch. Larger ones do not fit the CPU's caches and are
indexed per minibatch."""


class Weighed(NamedTuple):
    """A minibatch's objective.

    Attributes:
        names: the losses' names.
        parts: each term's sum and its factor. The factor includes the number of ranks, so that DDP's
            mean over ranks is the mean over all valid steps, with any distribution over ranks.
        total: the sum of all parts; gradients are taken of it.
        update_sums: the sums for the report.
        broken_on: `[m]`, the number of ranks on which a term of `update_sums.sums` is not finite;
            None with one rank, which checks the total instead.
    """

    names: tuple[str, ...]
    parts: Mapping[Key, tuple[Tensor, Tensor | float]]
    total: Tensor
    update_sums: UpdateSums
    broken_on: Tensor | None

    @property
    def losses(self) -> dict[str, Tensor]:
        """Each loss's weighted sum, with a graph of its own."""
        return {
            name: weighted_sum([part for (loss, _), part in self.parts.items() if loss == name], self.total.device)
            for name in self.names
        }

    @property
    def keys(self) -> tuple[Key, ...]:
        """Terms and statistics in the order of `sums`."""
        return self.update_sums.keys

    @property
    def sums(self) -> Tensor:
        """`[2, n]`: this rank's masked sums and counts, with the late statistics."""
        return settle([self.update_sums])[0]

    def sound(self, norm: Tensor) -> tuple[bool, float]:
        """Whether the gradient's norm and all terms on all ranks are finite, and the norm.

        It needs one transfer from the device. With one rank it is enough to check the total, because a
        sum with a non-finite part is never finite.
        """
        if self.broken_on is None:
            length, total = torch.stack([norm, self.total.detach()]).tolist()
            return isfinite(length) and isfinite(total), length
        length, broken = torch.stack([norm, self.broken_on.sum()]).tolist()
        return isfinite(length) and not broken, length

    def broken_losses(self) -> set[str]:
        """The losses with a term that is not finite on at least one rank."""
        if self.broken_on is None:
            return {name for name, loss in self.losses.items() if not isfinite(loss.item())}
        keys = [key for key in self.update_sums.keys if key not in self.update_sums.late]
        return {loss for (loss, _), ranks in zip(keys, self.broken_on.tolist(), strict=True) if ranks}


class Objective:
    """Creates and runs a plan's nodes.

    Args:
        plan: the nodes' classes, in order.
        context: the arguments of the nodes' constructors.
    """

    def __init__(self, plan: Plan, context: Context) -> None:
        self.context = context
        # Ranks that average weights and not gradients take their means over their own rows.
        self.reducer: Reducer = context.reducer if context.trainer.average_every == 1 else OneRank()
        self.nodes: list[Node] = [node(context) for node in plan.nodes]
        self.losses: list[Loss] = [node for node in self.nodes if isinstance(node, Loss)]
        read = set().union(*(method_reads(type(loss), "compute") for loss in self.losses))
        model_reads = {"core_state_BS"} if context.model.core is not None else set()
        model_reads |= {"actions_BT"} if plan.needs.unroll_steps else set()
        self.minibatch_names = frozenset(read | model_reads | {"mask_BT", IMPORTANCE})
        self.unroll_steps = plan.needs.unroll_steps
        fraction = context.trainer.losses.dynamics.start_fraction
        self.start_fraction = fraction if self.unroll_steps else 1.0
        self.unroll_every = context.trainer.losses.dynamics.update_every if self.unroll_steps else 1
        self.unrolled = frozenset(loss.name for loss in self.losses if reads_unroll(loss))
        # Signatures are read once. Reading them per minibatch would take longer than some losses, and
        # per batch 2 % of a small network's learner step.
        self.reads = {
            method: {node.name: method_reads(type(node), method) for node in self.nodes}
            for method in ("prepare", "measure", "compute")
        }
        self.coefs: dict[Key, float] = {}
        self.checked = False  # whether the names were checked
        self.measured: frozenset[Key] = frozenset()  # the keys that `measure` returned

    @torch.no_grad()
    def prepare(self, inputs: Mapping[str, Tensor], *, start: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Run every node's `prepare` in order on the whole batch.

        Args:
            inputs: tensors with the names of `learner.nodes.network.BatchInputs`.
            start: the result of the batch's first call, if this is a later one. What nodes anchor at the batch's start
                (`Node.anchors`) is taken from it.

        Returns:
            The inputs and the tensors that the nodes wrote.
        """
        values = dict(inputs)
        for node in self.nodes:
            if not hasattr(node, "prepare"):
                continue
            written = node.prepare(**self.select(values, node, "prepare"))
            for name, value in written.items():
                assert value.ndim == 0 or value.shape[0] == values["mask_BT"].shape[0], (
                    f"{name} must have B as its first axis, or no axes"
                )
            values.update(written)
            if start is not None:
                values.update({name: start[name] for name in node.anchors})
        return values

    @torch.no_grad()
    def measure(self, values: Mapping[str, Tensor]) -> tuple[tuple[Key, ...], Tensor]:
        """All nodes' statistics of the whole batch: keys, and this rank's sums and counts `[2, n]`."""
        found: dict[Key, Statistic] = {}
        for node in self.nodes:
            if hasattr(node, "measure"):
                statistics = node.measure(**self.select(values, node, "measure"))
                found.update({(node.name, name): statistic for name, statistic in statistics.items()})
        self.measured = frozenset(found)
        return tuple(found), sums_and_counts(list(found.values()))

    def select(self, values: Mapping[str, Tensor], node: Node, method: str) -> dict[str, Tensor]:
        """The tensors that a method's signature names."""
        return {name: values[name] for name in self.reads[method][node.name]}

    def drawn_from(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rows that minibatches are drawn from: trajectories or steps (`trainer.shuffle`)."""
        whole = self.trajectories(values)
        return whole if self.context.trainer.shuffle == "trajectories" else self.single_steps(whole, values)

    def trajectories(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that minibatches need, with whole trajectories as rows."""
        whole = {name: values[name] for name in self.minibatch_names if name in values}
        observations = values["observations_BT1"][:, :-1]
        whole |= keyed(observations) if isinstance(observations, dict) else {KEY: observations}
        if self.context.model.core is not None:
            whole["ends_BT"] = values["terminated_BT"] | values["truncated_BT"]
        return whole

    def single_steps(self, whole: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn each step into a trajectory of length 1.

        Losses read later steps only from the results of `prepare`. The dynamics model needs the
        following actions and masks and gets them as `FOLLOWING_ACTIONS` and `FOLLOWING_MASKS`.

        Raises:
            UserError: if the user's own loss reads a tensor whose name does not end with its axes.
        """
        steps = whole["mask_BT"].shape[1]
        apart = {name: by_step(name, value, steps) for name, value in whole.items()}
        if self.unroll_steps:
            apart[FOLLOWING_ACTIONS] = ahead(values["actions_BT"], self.unroll_steps, first=0).flatten(0, 1)
            allowed_BT1A = allowed_of(values["observations_BT1"])
            if allowed_BT1A is not None:
                apart[FOLLOWING_MASKS] = ahead(allowed_BT1A, self.unroll_steps + 1, first=0)[:, :-1].flatten(0, 1)
        return apart

    def minibatch(self, values: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """The tensors of a minibatch with the given trajectories; scalars are not indexed."""
        return next(self.minibatches(self.trajectories(values), [rows]))

    def minibatches(
        self, drawn_from: Mapping[str, Tensor], parts: Sequence[Tensor], *, left: int = 0
    ) -> Iterator[dict[str, Tensor]]:
        """The tensors of each of several minibatches.

        Args:
            drawn_from: the result of `drawn_from`.
            parts: the row numbers of each minibatch.
            left: the number of minibatches that follow in the same epoch; the model is unrolled in the epoch's last one.
        """
        rows = torch.cat(list(parts))
        scalars = {name: value for name, value in drawn_from.items() if value.ndim == 0}
        small = {name: value for name, value in drawn_from.items() if value.ndim and value.nbytes <= SMALL_BYTES}
        large = {name: value for name, value in drawn_from.items() if value.nbytes > SMALL_BYTES}
        lengths = [len(part) for part in parts]
        cut = {name: torch.split(value[rows], lengths) for name, value in small.items()}
        for position, part in enumerate(parts):
            taken = {name: pieces[position] for name, pieces in cut.items()}
            taken |= {name: value[part] for name, value in large.items()}
            if (left + len(parts) - 1 - position) % self.unroll_every:
                taken[STARTS] = part[:0]
            elif self.start_fraction < 1:
                taken[STARTS] = draw(taken["mask_BT"], self.start_fraction, self.context.generator)
            yield scalars | taken

    def weigh(self, minibatch: Mapping[str, Tensor], outputs: ModelOutputs, *, whole: bool = False) -> Weighed:
        """Compute every loss in order and weight its terms.

        Args:
            minibatch: the result of `minibatch`.
            outputs: the outputs of the model's forward pass.
            whole: whether the batch's mask is True everywhere; sums are then not masked.
        """
        values: dict[str, Tensor] = {**minibatch, **cast("Mapping[str, Tensor]", outputs)}
        importance_B = minibatch.get(IMPORTANCE)
        true_mask = minibatch["mask_BT"] if whole else None
        unrolled = is_unrolled(minibatch)
        starts = Starts(minibatch[STARTS], minibatch["mask_BT"]) if STARTS in minibatch and unrolled else None
        now: dict[Key, Term | Statistic] = {}
        late: dict[Key, Statistic] = {}
        keys = []
        for loss in self.losses if unrolled else self.without_model:
            drawn = starts if loss.name in self.unrolled else None
            for name, entry in self.compute(loss, values, drawn).items():
                key = (loss.name, name)
                keys.append(key)
                if isinstance(entry, Statistic) and entry.late:
                    late[key] = entry
                elif drawn is None or importance_B is None:
                    now[key] = counted(entry, importance_B)
                else:
                    now[key] = counted(entry, drawn.at(IMPORTANCE, importance_B))
        if not self.checked and unrolled:
            refuse_double_names(keys, self.measured)
            self.checked = True
        self.coefs = self.coefs | self.coefficients(now)
        # Each sum keeps its own graph. After stacking, the gradient of one loss would pass through all.
        update_sums = UpdateSums(
            tuple(keys),
            [masked_sum(entry, true_mask) for entry in now.values()],
            counts_of(now.values(), true_mask, {} if starts is None else starts.whole),
            late,
            true_mask,
        )
        scales, broken_on = self.scales(now, update_sums)
        parts = {
            key: (value, scale) for key, value, scale in zip(now, update_sums.sums, scales, strict=True) if key in self.coefs
        }
        total = weighted_sum(parts.values(), self.device)
        if not unrolled and self.reducer.world_size > 1:
            total = total + sum(parameter.sum() for parameter in self.model_parameters) * 0.0  # DDP waits for their gradients
        return Weighed(tuple(loss.name for loss in self.losses), parts, total, update_sums, broken_on)

    def compute(self, loss: Loss, values: Mapping[str, Tensor], drawn: Starts | None) -> Mapping[str, Term | Statistic]:
        """A loss's terms and statistics, at the drawn starts if there are any."""
        given = self.select(values, loss, "compute")
        if drawn is None:
            return loss.compute(**given)
        entries = loss.compute(**drawn.select(given)).items()
        return {n: e if isinstance(e, Statistic) and e.late else drawn.expanded(e) for n, e in entries}

    @cached_property
    def without_model(self) -> list[Loss]:
        """The losses that do not read the dynamics model's outputs."""
        return [loss for loss in self.losses if loss.name not in self.unrolled]

    @cached_property
    def model_parameters(self) -> list[nn.Parameter]:
        """The dynamics model's trained parameters."""
        return [parameter for parameter in self.context.model.dynamics_parameters() if parameter.requires_grad]

    @cached_property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.context.model.parameters()).device

    def scales(
        self, now: Mapping[Key, Term | Statistic], update_sums: UpdateSums
    ) -> tuple[Sequence[Tensor | float], Tensor | None]:
        """Each sum's factor in the objective, and the number of ranks on which each is not finite.

        The second result is None with one rank.
        """
        if self.reducer.world_size == 1:
            share: dict[int, Tensor | float] = {}
            for count in update_sums.counts:
                if id(count) not in share:
                    share[id(count)] = 1 / max(count, 1) if isinstance(count, int) else count.clamp(min=1).reciprocal()
            return [
                self.coefs.get(key, 0.0) * share[id(count)] for key, count in zip(now, update_sums.counts, strict=True)
            ], None
        # Statistics may be NaN. Whether terms are finite is reduced together with the counts, so that
        # either all ranks skip an update or none does.
        sums = torch.stack(update_sums.sums).detach()
        is_term = torch.tensor([key in self.coefs for key in now], device=sums.device)
        own = torch.stack([as_tensor(update_sums.counts, sums.device), (is_term & ~sums.isfinite()).float()])
        counts, broken_on = self.reducer.sum(own)
        coefs = torch.tensor([self.coefs.get(key, 0.0) for key in now], device=sums.device)
        return (coefs * self.reducer.world_size / counts.clamp(min=1)).unbind(), broken_on

    def coefficients(self, now: Mapping[Key, Term | Statistic]) -> dict[Key, float]:
        """The coefficient of each term in the objective."""
        terms = {key: entry.coef for key, entry in now.items() if isinstance(entry, Term)}
        scales, scheduled = self.context.scales, self.context.scheduled
        if scheduled:
            terms = {
                key: coef * scheduled.get(key, 1.0) * scheduled.get((key[0], ALL_TERMS), 1.0) for key, coef in terms.items()
            }
        return {key: coef * scales.get(key[0], 1.0) for key, coef in terms.items()}


def weighted_sum(parts: Collection[tuple[Tensor, Tensor | float]], device: torch.device) -> Tensor:
    """The sum of value times scale over all parts; 0 without parts."""
    total: Tensor | None = None
    for value, scale in parts:
        if total is None:
            total = value * scale
        else:
            total = total.add(value, alpha=scale) if isinstance(scale, float) else total + value * scale
    return torch.zeros((), device=device) if total is None else total


def refuse_double_names(computed: Iterable[Key], measured: Iterable[Key]) -> None:
    """Check that a loss reports each name once.

    Raises:
        UserError: if every loss already has a name, or if it comes from both `compute` and `measure`.
    """
    for loss, name in {*computed, *measured}:
        if name in {*OWN_NUMBERS, "terms"}:
            raise UserError(f"the loss {loss} reports {name!r}, a name that every loss already has; use another name")
    for loss, name in set(computed) & set(measured):
        raise UserError(f"the loss {loss} reports {name!r} from both compute and measure; rename one of them")


def sums_and_counts(entries: list[Term | Statistic]) -> Tensor:
    """The masked sum and the count of each entry, `[2, n]`."""
    if not entries:
        return torch.zeros(2, 0)
    sums = torch.stack([masked_sum(entry) for entry in entries])
    return torch.stack([sums, as_tensor(counts_of(entries), sums.device)])


def counted(entry: Term | Statistic, importance_B: Tensor | None) -> Term | Statistic:
    """Multiply a term's values by their rows' weights; the count for the mean stays the same.

    Statistics, and terms whose first axis is not the rows, are returned unchanged.
    """
    if importance_B is None or not isinstance(entry, Term) or entry.value.shape[:1] != importance_B.shape:
        return entry
    weights = importance_B.reshape(-1, *[1] * (entry.value.ndim - 1))
    return Term(entry.value * weights, entry.mask, entry.coef)
