"""Masked sums and counts for the report.

Terms are summed at every update. Late statistics (see `Statistic.later`) are computed for many updates at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learner.loss import Statistic, Term

Key = tuple[str, str]
"""A loss's (or another node's) name and a term's or statistic's name."""


class UpdateSums(NamedTuple):
    """The sums of one update, for the report.

    Attributes:
        keys: terms and statistics in the order of the report's columns.
        sums: this rank's masked sums of all entries that are not late, in order. Sums of terms have a
            graph; after the backward pass it holds no tensors.
        counts: the number of values in each sum; an int if the mask is known to be True everywhere.
        late: the late statistics.
        true_mask: the minibatch's mask if it is known to be True everywhere.
    """

    keys: tuple[Key, ...]
    sums: list[Tensor]
    counts: Sequence[Tensor | int]
    late: Mapping[Key, Statistic]
    true_mask: Tensor | None = None


def masked_sum(entry: Term | Statistic, true_mask: Tensor | None = None) -> Tensor:
    """The sum of an entry's unmasked values, with the term's graph; masked values may be NaN.

    An entry whose mask is `true_mask`, which is known to be True everywhere, is not masked.
    """
    value = entry.value if isinstance(entry, Term) else entry.value.detach()
    if entry.mask is not true_mask:
        value = torch.where(entry.mask, value, 0.0)
    return value.sum(dtype=torch.float32)


def counts_of(
    entries: Collection[Term | Statistic], true_mask: Tensor | None = None, whole: Mapping[int, Tensor] | None = None
) -> list[Tensor | int]:
    """The number of unmasked values of each entry; shared masks are counted once.

    Args:
        entries: terms and statistics.
        true_mask: a mask that is known to be True everywhere.
        whole: for the ids of masks that are parts of larger ones, those larger ones, which are counted.
    """
    masks = {id(entry.mask): (whole or {}).get(id(entry.mask), entry.mask) for entry in entries}
    counts = {key: mask.numel() if mask is true_mask else mask.sum() for key, mask in masks.items()}
    return [counts[id(entry.mask)] for entry in entries]


def as_tensor(counts: Sequence[Tensor | int], device: torch.device) -> Tensor:
    """The counts as float32 `[n]`."""
    if all(isinstance(count, int) for count in counts):
        return torch.tensor(counts, dtype=torch.float32, device=device)
    return torch.stack([torch.as_tensor(count, device=device) for count in counts]).float()


@torch.no_grad()
def settle(unsettled: Sequence[UpdateSums]) -> Tensor:
    """This rank's masked sums and counts of several updates, with the late ones: `[updates, 2, n]`.

    Some updates may have a part of the keys (`dynamics.update_every`); their other sums and counts are 0.
    """
    keys = max((update_sums.keys for update_sums in unsettled), key=len)
    alike: defaultdict[tuple[Key, ...], list[int]] = defaultdict(list)
    for number, update_sums in enumerate(unsettled):
        alike[update_sums.keys].append(number)
    if len(alike) == 1:
        return settle_alike(unsettled)
    parts = {part: settle_alike([unsettled[number] for number in numbers]) for part, numbers in alike.items()}
    settled = torch.zeros(len(unsettled), 2, len(keys), device=parts[keys].device)
    for part, numbers in alike.items():
        columns = torch.tensor([keys.index(key) for key in part])
        settled[torch.tensor(numbers)[:, None], :, columns[None, :]] = parts[part].transpose(1, 2)
    return settled


def settle_alike(unsettled: Sequence[UpdateSums]) -> Tensor:
    """The same for updates with the same keys."""
    first = unsettled[0]
    flat = [value for update_sums in unsettled for value in update_sums.sums]
    sums = torch.stack(flat) if flat else torch.zeros(0)
    counts = as_tensor([count for update_sums in unsettled for count in update_sums.counts], sums.device)
    now = torch.stack([sums, counts]).view(2, len(unsettled), -1).transpose(0, 1)
    if not first.late:
        return now
    order = [key for key in first.keys if key not in first.late] + list(first.late)
    late = settle_late(
        [update_sums.late for update_sums in unsettled], whole=[update_sums.true_mask for update_sums in unsettled]
    )
    return torch.cat([now, late], 2)[:, :, [order.index(key) for key in first.keys]]


def settle_late(late: Sequence[Mapping[Key, Statistic]], whole: Sequence[Tensor | None]) -> Tensor:
    """Compute each late statistic for all updates at once: sums and counts, `[updates, 2, n]`.

    Args:
        late: the late statistics of each update.
        whole: for each update, the mask that is known to be True everywhere, or None.
    """
    joined: dict[tuple[int, ...], Tensor] = {}

    def join(tensors: Sequence[Tensor]) -> Tensor:
        """Concatenate a tensor over updates, once for all statistics that read it."""
        key = tuple(map(id, tensors))
        if key not in joined:
            joined[key] = torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]
        return joined[key]

    true_mask = None if whole[0] is None else tuple(map(id, whole))
    counts: dict[tuple[int, int | None], Tensor] = {}
    columns = []
    for name, entry in late[0].items():
        same = [update[name] for update in late]
        masks = [each.counted for each in same]
        value = entry.function(*(join(tensors) for tensors in zip(*(each.inputs for each in same), strict=True)))
        mask, lengths = join(masks), [len(each) for each in masks]
        if entry.last is not None:
            value, mask = value[..., entry.last], mask[..., entry.last]
        if tuple(map(id, masks)) != true_mask:
            value = torch.where(mask, value, 0.0)
        count = counts.get((id(masks[0]), entry.last))
        if count is None:
            count = counts[id(masks[0]), entry.last] = sums_of(mask, lengths)
        columns.append(torch.stack([sums_of(value, lengths), count]))
    return torch.stack(columns, 2).transpose(0, 1)


def sums_of(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """The sum of each update's rows, float32 `[updates]`."""
    if len(set(lengths)) == 1:
        return values.reshape(len(lengths), -1).sum(1, dtype=torch.float32)
    return torch.stack([part.sum(dtype=torch.float32) for part in torch.split(values, list(lengths))])
