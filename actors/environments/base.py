"""The interface of environments: several copies of one environment, with one row per agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from actors.settings import SELECTED_BY, EnvSettings
from protocol.data.observations import Observations
from protocol.data.spaces import Spaces
from protocol.data.trajectory import Array


@dataclass(frozen=True)
class Episode:
    """A complete episode.

    Attributes:
        episode_return: the sum of rewards, undiscounted and unscaled; the mean over agents.
        length: the number of steps.
        statistics: the environment's own numbers, in the order of `Environment.episode_statistics`; NaN if
            the episode does not have one.
        copy: the number of the environment's copy.
    """

    episode_return: float
    length: int
    statistics: tuple[float, ...] = field(default=(), compare=False)
    copy: int = field(default=0, compare=False)


@dataclass(slots=True)
class Step:
    """The result of one step of all rows. The arrays are valid until the environment's next call.

    A row whose agent is absent has `valid` False, reward 0 and `terminated` True, so that nothing is
    carried over until the agent returns.
    """

    observations: Observations  # [N, ...]; if an episode ended, the first observation of the next one
    rewards: Array  # [N], float32
    terminated: Array  # [N], bool
    truncated: Array  # [N], bool
    valid: Array  # [N], bool: the row's agent was present and acted
    final_observations: Observations  # [F, ...], of rows that were truncated and not terminated
    final_rows: Array  # [F], int
    episodes: Sequence[Episode]  # the episodes that ended in this step


class Environment(Protocol):
    """Several copies of an environment, stepped together.

    Attributes:
        name: the setting that selected the environment, for messages.
        spaces: the spaces of one row; complete after the first reset, which shows whether `info`
            has action masks.
        num_rows: N, the number of rows.
        num_copies: the number of copies; each has `num_rows / num_copies` consecutive rows.
        channels: the axis that was used as an image's channels, "first" or "last"; None for other
            observations.
        episode_statistics: the names of the numbers in `Episode.statistics`.
    """

    name: str
    spaces: Spaces
    num_rows: int
    num_copies: int
    channels: str | None
    episode_statistics: tuple[str, ...]

    def reset(self) -> Observations:
        """Start all episodes; returns observations `[N, ...]`, valid until the next call."""
        ...

    def step(self, actions: Array) -> Step:
        """Take one action per row, `[N]` or `[N, width]`: choices count from 0, numbers are in -1..1."""
        ...

    def close(self) -> None:
        """Release all resources. Safe to call twice."""
        ...


@runtime_checkable
class HearsInfo(Protocol):
    """An environment that reads episode statistics from `info`."""

    def hear(self, patterns: Sequence[str]) -> None:
        """Set the names of the statistics. Called once, before the first reset.

        Args:
            patterns: `env.info_metrics`: names, and patterns such as `reward_*`.

        Raises:
            UserError: if they are too many.
        """
        ...


def name_of(settings: EnvSettings) -> str:
    """The environment's name in messages: the setting that selected it."""
    setting = SELECTED_BY[settings.kind]
    return f"env.{setting}={getattr(settings, setting)}"
