"""The one place where losses are weighed, masked, averaged over all ranks, and recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add
from typing import NamedTuple, cast

import torch
from torch import Tensor

from agent.model import ModelOutputs
from learner.loss import OWN_NUMBERS, Context, Loss, Node, Statistic, Term, Terms, method_reads
from learner.masks import ahead
from learner.plan import Plan
from protocol.errors import UserError

MODEL_INPUTS = frozenset({"observations_BT1", "core_state_BS", "actions_BT", "terminated_BT", "truncated_BT"})
"""What the model's forward pass takes of a minibatch, whether or not a loss reads it."""

IMPORTANCE = "importance_B"
"""What each row's terms count for; no loss reads it."""

FOLLOWING_ACTIONS = "following_actions"
"""Of each single step: its action and those after it, as many as the latent model takes steps."""

Key = tuple[str, str]
"""A loss's (or another node's) name and a term's or statistic's name."""


class Weighed(NamedTuple):
    """A minibatch's objective.

    Attributes:
        losses: each loss's weighted sum. A rank's share, times the number of ranks: DDP's mean over ranks is then the mean over
            all valid steps, however unevenly they lie.
        keys: terms and statistics in the order of `sums`.
        sums: `[2, n]`: masked sums and counts of this rank, for the report.
        broken: `[n]`: on how many ranks a term is not finite.
    """

    losses: dict[str, Tensor]
    keys: tuple[Key, ...]
    sums: Tensor
    broken: Tensor

    @property
    def total(self) -> Tensor:
        """What is differentiated."""
        return reduce(add, self.losses.values())


class Objective:
    """A plan's nodes, made and run.

    Args:
        plan: their classes in order.
        context: what they need to know.
    """

    def __init__(self, plan: Plan, context: Context) -> None:
        self.context = context
        self.nodes: list[Node] = [node(context) for node in plan.nodes]
        self.losses: list[Loss] = [node for node in self.nodes if isinstance(node, Loss)]
        read = set().union(*(method_reads(type(loss), "compute") for loss in self.losses))
        self.minibatch_names = frozenset(read | MODEL_INPUTS | {IMPORTANCE, FOLLOWING_ACTIONS})
        self.unroll_steps = plan.needs.unroll_steps
        # Signatures are read once here: reflection in every minibatch costs more than some of the losses, and in every batch
        # two hundredths of a small network's learner step.
        self.reads = {
            method: {node.name: method_reads(type(node), method) for node in self.nodes}
            for method in ("prepare", "measure", "compute")
        }
        self.coefs: dict[Key, float] = {}
        self.columns: Tensor | None = None  # [n], the coefficients of the columns of `Weighed.sums`, 0 for statistics
        self.is_term: Tensor | None = None  # [n], of the columns of `Weighed.sums`
        self.measured: frozenset[Key] = frozenset()  # what `measure` gave

    @torch.no_grad()
    def prepare(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run every node's `prepare` in order on the whole batch; what they write is frozen from then on.

        Args:
            inputs: the names of `learner.nodes.BatchInputs`.

        Returns:
            The inputs and everything written.
        """
        values = dict(inputs)
        for node in self.nodes:
            if not hasattr(node, "prepare"):
                continue
            written = node.prepare(**self.select(values, node, "prepare"))
            for name, value in written.items():
                assert value.ndim == 0 or value.shape[0] == values["mask_BT"].shape[0], (
                    f"{name} must have B in front or no axes"
                )
            values.update(written)
        return values

    @torch.no_grad()
    def measure(self, values: Mapping[str, Tensor]) -> tuple[tuple[Key, ...], Tensor]:
        """Every node's statistics of the whole batch: their keys, and `[2, n]` masked sums and counts of this rank."""
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

    def single_steps(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a minibatch needs with each step as a trajectory of its own, of length 1.

        What a loss reads of the steps that follow, it reads of what `prepare` has set beside each step; the latent model, which
        reads the actions that follow, gets them as `FOLLOWING_ACTIONS`.

        Raises:
            UserError: if a loss of the user's own reads a tensor whose name does not say which axes it has.
        """
        steps = values["mask_BT"].shape[1]
        apart = {name: by_step(name, values[name], steps) for name in self.minibatch_names if name in values}
        if self.unroll_steps:
            apart[FOLLOWING_ACTIONS] = ahead(values["actions_BT"], self.unroll_steps, first=0).flatten(0, 1)
        return apart

    def minibatch(self, values: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """The rows of what a minibatch needs; scalars pass as they are."""
        return {
            name: values[name] if values[name].ndim == 0 else values[name][rows]
            for name in self.minibatch_names
            if name in values
        }

    def weigh(self, minibatch: Mapping[str, Tensor], outputs: ModelOutputs, *, whole: bool = False) -> Weighed:
        """Compute every loss in order and weigh its terms.

        Args:
            minibatch: what `minibatch` gave.
            outputs: the model's forward pass of it.
            whole: whether the batch's own mask is True everywhere, so that it need not be applied to every sum.
        """
        values: dict[str, Tensor] = {**minibatch, **cast("Mapping[str, Tensor]", outputs)}
        computed: dict[str, Terms] = {loss.name: loss.compute(**self.select(values, loss, "compute")) for loss in self.losses}
        entries = {(loss, name): entry for loss, terms in computed.items() for name, entry in terms.items()}
        # Each sum keeps a graph of its own: out of a stack of them, every loss's gradient would run back through all losses.
        importance_B = minibatch.get(IMPORTANCE)
        true_mask = minibatch["mask_BT"] if whole else None
        values_of = [masked_sum(counted(entry, importance_B), true_mask) for entry in entries.values()]
        sums = torch.stack([torch.stack(values_of).detach(), counts_of(list(entries.values()))])
        if self.is_term is None:
            refuse_double_names(entries, self.measured)
            self.is_term = torch.tensor([isinstance(entry, Term) for entry in entries.values()], device=sums.device)
        # A statistic may be NaN. What is broken is told beside the counts, so that all ranks skip an update or none does.
        counts, broken = self.context.reducer.sum(torch.stack([sums[1], (self.is_term & ~sums[0].isfinite()).float()]))
        scales = (self.coefficients(entries, sums.device) * self.context.reducer.world_size / counts.clamp(min=1)).unbind()
        weighted: dict[str, list[Tensor]] = {loss: [] for loss in computed}
        for ((loss, _), entry), value, scale in zip(entries.items(), values_of, scales, strict=True):
            if isinstance(entry, Term):
                weighted[loss].append(value * scale)
        losses = {
            loss: reduce(add, terms) if terms else torch.zeros((), device=sums.device) for loss, terms in weighted.items()
        }
        return Weighed(losses, tuple(entries), sums, broken)

    def coefficients(self, entries: Mapping[Key, Term | Statistic], device: torch.device) -> Tensor:
        """`[n]`: what each entry counts for in the objective, 0 for statistics; noted in `coefs`, too."""
        scales = self.context.scales
        coefs = {key: entry.coef * scales.get(key[0], 1.0) for key, entry in entries.items() if isinstance(entry, Term)}
        if self.columns is None or coefs != self.coefs:
            self.coefs = coefs
            self.columns = torch.tensor([coefs.get(key, 0.0) for key in entries], device=device)
        return self.columns


def by_step(name: str, value: Tensor, steps: int) -> Tensor:
    """A batch's tensor with its steps in front, by the axes that its name ends with.

    `_BT...` becomes `[B * T, 1, ...]`; `_BT1`, which has one more step, `[B * T, 2, ...]`: the step and the one after it.
    A row's number or state, `_B...`, is repeated for each of its steps; a scalar stays.
    """
    if value.ndim == 0:
        return value
    axes = name.rpartition("_")[2]
    if axes == "BT1":
        return torch.stack([value[:, :-1], value[:, 1:]], 2).flatten(0, 1)
    if axes.startswith("BT"):
        return value.flatten(0, 1).unsqueeze(1)
    if axes.startswith("B"):
        return value.repeat_interleave(steps, 0)
    raise UserError(
        f"trainer.shuffle=steps reads a tensor's axes from the end of its name, such as _BT or _B, and {name} has none there; "
        "rename it, or set trainer.shuffle to trajectories"
    )


def refuse_double_names(computed: Iterable[Key], measured: Iterable[Key]) -> None:
    """Refuse a number that would be reported in another one's place.

    Raises:
        UserError: if one has the name of a loss's own numbers, or comes from `compute` and `measure` both.
    """
    for loss, name in {*computed, *measured}:
        if name in {*OWN_NUMBERS, "terms"}:
            raise UserError(f"the loss {loss} reports {name!r}, which every loss reports of itself; give it another name")
    for loss, name in set(computed) & set(measured):
        raise UserError(f"the loss {loss} reports {name!r} from compute and from measure; give one of them another name")


def sums_and_counts(entries: list[Term | Statistic]) -> Tensor:
    """`[2, n]`: the masked sum and the count of each."""
    if not entries:
        return torch.zeros(2, 0)
    return torch.stack([torch.stack([masked_sum(entry) for entry in entries]), counts_of(entries)])


def counted(entry: Term | Statistic, importance_B: Tensor | None) -> Term | Statistic:
    """A term with each row's values multiplied by what the row counts for; the count that its sum is divided by stays.

    Statistics are of the rows as they are, and a term without rows in front has none to weigh.
    """
    if importance_B is None or not isinstance(entry, Term) or entry.value.shape[:1] != importance_B.shape:
        return entry
    weights = importance_B.reshape(-1, *[1] * (entry.value.ndim - 1))
    return Term(entry.value * weights, entry.mask, entry.coef)


def masked_sum(entry: Term | Statistic, true_mask: Tensor | None = None) -> Tensor:
    """A scalar with the value's graph; what is masked may be NaN. `true_mask` is one that is known to be True everywhere."""
    if entry.mask is true_mask:
        return entry.value.sum(dtype=torch.float32)
    return torch.where(entry.mask, entry.value, 0.0).sum(dtype=torch.float32)


def counts_of(entries: list[Term | Statistic]) -> Tensor:
    """How many values of each count, as float32. Most entries share a mask, which is counted once."""
    counts = {id(entry.mask): entry.mask for entry in entries}
    sums = {key: mask.sum() for key, mask in counts.items()}
    return torch.stack([sums[id(entry.mask)] for entry in entries]).float()
