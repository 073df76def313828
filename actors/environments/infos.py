"""Numbers in the `info` of an episode's last step, which become the episode's statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from statistics import fmean
from typing import Any

import numpy as np

from oatmill.errors import UserError

ALWAYS = ("is_success", "score")
"""What is looked for in every environment."""
MAX_NAMES = 64
MAX_DEPTH = 16
"""How many mappings inside each other are looked into. An `info` may contain itself."""
ABSENT = math.nan
"""What stands for a number that an episode's last `info` does not have."""


def has_globs(patterns: Iterable[str]) -> bool:
    """Whether names must be looked up in an environment's `info`, since some are patterns such as `reward_*`."""
    return any(_is_glob(pattern) for pattern in patterns)


def names_of(patterns: Sequence[str], infos: Sequence[Mapping[str, Any]], environment: str) -> tuple[str, ...]:
    """The names that a run keeps from its start to its end.

    Args:
        patterns: names, and globs that stand for names.
        infos: what globs are matched with, such as the `info` of a reset and of a step.
        environment: its name, for messages.

    Raises:
        UserError: if they are more than `MAX_NAMES`.
    """
    shown = sorted({name for info in infos for name, _ in flat(info)})
    names = [*ALWAYS, *(pattern for pattern in patterns if not _is_glob(pattern))]
    names += [name for name in shown if any(fnmatchcase(name, pattern) for pattern in patterns if _is_glob(pattern))]
    found = tuple(dict.fromkeys(names))
    if len(found) > MAX_NAMES:
        raise UserError(
            f"{environment}: expected env.info_metrics to name or match at most {MAX_NAMES} numbers of info, got {len(found)}; "
            "name fewer"
        )
    return found


def read(names: Sequence[str], info: Mapping[str, Any]) -> tuple[float, ...]:
    """The numbers of these names; `ABSENT` where there is none, or where it is not finite."""
    values = dict(flat(info)) if names and info else {}
    return tuple(values.get(name, ABSENT) for name in names)


def flat(info: Mapping[str, Any], prefix: str = "", *, inside: tuple[int, ...] = ()) -> Iterator[tuple[str, float]]:
    """The finite numbers and booleans of an `info`; those of a mapping inside it have its name and a dot before theirs.

    Args:
        info: the mapping.
        prefix: text before every name.
        inside: the ids of the mappings that this one is in, which are not looked into again.
    """
    inside = (*inside, id(info))
    for name, value in info.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            if id(value) not in inside and len(inside) < MAX_DEPTH:
                yield from flat(value, f"{path}.", inside=inside)
        elif (number := _number(value)) is not None:
            yield path, number


def of_agents(infos: Any) -> dict[str, float]:
    """The numbers of several agents' `info`: each under its name, the mean over the agents that have it, and as `agent.name`.

    Args:
        infos: `info` by agent; agents without a mapping are left out.
    """
    given = infos if isinstance(infos, Mapping) else {}
    by_agent = {str(agent): dict(flat(info)) for agent, info in given.items() if isinstance(info, Mapping)}
    names = dict.fromkeys(name for values in by_agent.values() for name in values)
    means = {name: fmean(values[name] for values in by_agent.values() if name in values) for name in names}
    return means | {f"{agent}.{name}": value for agent, values in by_agent.items() for name, value in values.items()}


def row_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """One copy's `info` out of a VectorEnv's, whose values are arrays of one entry a copy.

    A mask under the same name with an underscore before it says which copies have an entry. Copies that were reset in the step
    that ended their episode have their last `info` under `final_info`.
    """
    final = infos.get("final_info")
    if final is not None and _has(infos, "final_info", row):
        return dict(final[row]) if not isinstance(final, Mapping) else row_of(final, row)
    return {name: _entry(value, row) for name, value in infos.items() if name[:1] != "_" and _has(infos, name, row)}


def _entry(value: Any, row: int) -> Any:
    if isinstance(value, Mapping):
        return row_of(value, row)
    try:
        return value[row]
    except (TypeError, IndexError, KeyError):
        return None


def _has(infos: Mapping[str, Any], name: str, row: int) -> bool:
    mask = infos.get(f"_{name}")
    return mask is None or bool(mask[row])


def _number(value: Any) -> float | None:
    if isinstance(value, np.ndarray | np.generic):
        if value.size != 1 or value.dtype.kind not in "fbiu":
            return None
        value = value.item()
    if not isinstance(value, bool | int | float):
        return None
    try:
        with np.errstate(over="ignore"):
            number = float(np.float32(value))  # as it is sent
    except OverflowError:  # an integer beyond the largest float
        return None
    return number if math.isfinite(number) else None


def _is_glob(pattern: str) -> bool:
    return any(mark in pattern for mark in "*?[")
