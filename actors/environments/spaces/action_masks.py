"""Action masks as environments give them, in the observation or in `info`, flat or one array a factor."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.environments.boundary import RawSpace
from oatmill.errors import UserError
from protocol.data.observations import ObservationDict
from protocol.data.spaces import ACTION_MASK, ActionSpace, DictSpace, ObservationSpace, Spaces
from protocol.data.trajectory import Array

log = logging.getLogger("oatmill.environment")

UNREAD = "action_masks"
"""The method and the key that sb3-contrib and others use; their masks are not read."""
OBSERVATION = "observation"
"""The key of a plain observation beside a mask out of `info`."""


class RawMask(RawSpace):
    """A mask of 0 and 1 for each choice, all factors' one after another; a tuple of one array a factor is joined."""

    def store(self, values: Any, into: Array, row: int, what: str = "an observation") -> None:
        """Check one mask's shape and write it into a row."""
        joined = np.concatenate([np.asarray(factor) for factor in values]) if isinstance(values, tuple) else values
        super().store(joined, into, row, what)

    def batch(self, values: Any, rows: int, what: str = "observations") -> Array:
        """A checked copy of many masks: `[rows, A]`, or a tuple of one array `[rows, size]` a factor."""
        return super().batch(np.concatenate(values, 1) if isinstance(values, tuple) else values, rows, what)


def raw_mask(choices: int) -> RawMask:
    """A mask of so many choices."""
    return RawMask("an action mask", (choices,), np.dtype(np.int8), np.array(0), np.array(1))


class InfoMasks:
    """The masks in `info["action_mask"]`, if the first reset brings one.

    Args:
        action: the action space.
        rows: how many.
        name: the environment's, for messages.
        env: one copy, or what steps all; a warning is logged if it has masks that are not read.
        beside: whether the observation has a mask, which counts. Masks in `info` are then only compared with it, once.

    Attributes:
        given: whether there are masks; None before the first reset.
    """

    def __init__(self, action: ActionSpace, rows: int, name: str = "", env: Any = None, *, beside: bool = False) -> None:
        self.given: bool | None = None
        self._name, self._env, self._beside = name, env, beside
        self._others: dict[int, Any] = {}
        self._raw = raw_mask(action.num_logits)
        self._rows = self._raw.empty(rows)
        self._rows[:] = 1

    @property
    def masks(self) -> Array | None:
        """What is allowed now, bool `[rows, A]`; None without masks."""
        if not self.given or self._beside:
            return None
        self._raw.check_limits(self._rows, 'info["action_mask"]')
        return self._rows.view(np.bool_)

    def take(self, info: Any, row: int) -> None:
        """Read one row's mask out of the info of a reset, or of a step that did not end the episode.

        Raises:
            ValueError: if it is there and was not before, is missing, or has another form.
        """
        there = isinstance(info, Mapping) and info.get(ACTION_MASK) is not None
        if self._beside:
            if there and self.given is None:
                self._others[row] = info[ACTION_MASK]
            return
        self._expect(there=there, info=info)
        if there:
            self._raw.store(info[ACTION_MASK], self._rows, row, 'info["action_mask"]')

    def take_all(self, infos: Any, rows: Array) -> None:
        """Read the masks of a VectorEnv's copies.

        Args:
            infos: of a reset or a step.
            rows: `[N]` bool, the copies to read: those that act next. The others keep what they have.

        Raises:
            ValueError: as `take` does.
        """
        if self._beside:
            return
        there = isinstance(infos, Mapping) and infos.get(ACTION_MASK) is not None
        if not there:
            if rows.any():
                self._expect(there=False, info=infos)
            return
        values = infos[ACTION_MASK]
        said = np.asarray(infos.get(f"_{ACTION_MASK}", True))
        self._expect(there=bool((said | ~rows).all()))
        for row in np.flatnonzero(rows).tolist():
            one = tuple(factor[row] for factor in values) if isinstance(values, tuple) else values[row]
            self._raw.store(one, self._rows, row, f'info["action_mask"][{row}]')

    def compare(self, masks: Array) -> None:
        """Log a warning if the first `info` has other masks than the first observations, bool `[rows, A]`, which count."""
        if self._beside and self.given is None:
            self.given = bool(self._others)
            if any(not _says(other, masks[row]) for row, other in self._others.items()):
                log.warning(
                    '%s: info["%s"] and the key %s of the observation differ; the observation counts, and info is not read',
                    self._name,
                    ACTION_MASK,
                    ACTION_MASK,
                )
            self._others.clear()

    def _expect(self, *, there: bool, info: Any = None) -> None:
        if self.given is None:
            self.given = there
            if not there:
                self._warn_of_unread(info)
        if there != self.given:
            raise ValueError(
                f'expected info["{ACTION_MASK}"] in every reset and step or in none, '
                f"and it {'came' if there else 'is missing'} now"
            )
        if there and not self._rows.shape[1]:
            raise ValueError(f'expected no info["{ACTION_MASK}"], because continuous actions cannot be masked')

    def _warn_of_unread(self, info: Any) -> None:
        """Log a warning if the environment has masks in a form of other libraries: every action would be taken as allowed."""
        given = f'info["{UNREAD}"]' if isinstance(info, Mapping) and UNREAD in info else ""
        given = given or (f"the method {UNREAD}()" if has_method(self._env, UNREAD) else "")
        if given:
            log.warning(
                '%s: %s is not read, so all actions are taken as allowed; put the mask into info["%s"] at every reset and '
                "step, or into the observation as its key %s",
                self._name,
                given,
                ACTION_MASK,
                ACTION_MASK,
            )


def has_method(env: Any, method: str) -> bool:
    """Whether an environment has a method, itself or within its wrappers; of a VectorEnv, its first copy."""
    while env is not None:
        if callable(getattr(env, method, None)):
            return True
        env = getattr(env, "env", None) or next(iter(getattr(env, "envs", None) or ()), None)
    return False


def _says(mask: Any, allowed: Array) -> bool:
    """Whether a mask in any form is equal to one out of an observation."""
    try:
        return np.array_equal(np.hstack(mask).astype(np.bool_), allowed)
    except (TypeError, ValueError):
        return False


def with_masks(observations: Any, masks: Array | None) -> Any:
    """Observations with a mask out of `info` as a key of theirs."""
    if masks is None:
        return observations
    keys = observations if isinstance(observations, dict) else {OBSERVATION: observations}
    return ObservationDict({**keys, ACTION_MASK: masks})


def masked_spaces(spaces: Spaces) -> Spaces:
    """The same spaces with a mask as a key of the observation."""
    space = spaces.observation
    keys = dict(space.parts) if isinstance(space, DictSpace) else {OBSERVATION: space}
    mask = ObservationSpace("mask", (spaces.action.num_logits,), "bool")
    return Spaces(DictSpace.of({**keys, ACTION_MASK: mask}), spaces.action)


def check_mask_space(spaces: Spaces, name: str) -> Spaces:
    """Spaces whose mask, if they have one, is as long as the actions are many.

    Raises:
        UserError: if it is not.
    """
    if spaces.masked:
        length = dict(spaces.observation.parts)[ACTION_MASK].shape[0]
        if length != spaces.action.num_logits:
            raise UserError(
                f"{name}: expected {ACTION_MASK} to have {spaces.action.num_logits} entries, one for each choice, got "
                f"{length}; correct observation_space"
            )
    return spaces


def check_allows(observations: Any, sizes: Sequence[int]) -> None:
    """Raise ValueError unless the masks, if there are any, allow at least one choice of each factor in every row."""
    masks = observations.get(ACTION_MASK) if isinstance(observations, dict) else None
    if masks is None:
        return
    start = 0
    for factor, size in enumerate(sizes):
        allows = masks[:, start : start + size].any(1)
        if not allows.all():
            of_factor = f" of factor {factor}" if len(sizes) > 1 else ""
            raise ValueError(
                f"expected an {ACTION_MASK} that allows at least one choice{of_factor}, got none in row "
                f"{int(allows.argmin())}; end the episode if no action is possible"
            )
        start += size
