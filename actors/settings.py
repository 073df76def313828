"""Settings of environments and actors (no torch)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from protocol.settings import Settings


class GymnasiumEnv(Settings):
    """An environment of Gymnasium's registry, several copies stepped together."""

    kind: Literal["gymnasium"] = "gymnasium"
    id: str = Field(min_length=1)
    """As `gymnasium.make` takes it, such as CartPole-v1."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to the environment's constructor."""
    vectorization: Literal["auto", "sync", "vector_entry_point"] = "auto"
    """`sync` steps copies one by one; `vector_entry_point` uses the environment's own vectorised class; `auto` the latter where
    the environment has one."""


class CogsEnv(Settings):
    """Cogs versus clips on MettaGrid: agents gather elements, assemble hearts and fill a chest."""

    kind: Literal["cogs"] = "cogs"
    mission: Literal["easy_hearts_small", "easy_hearts"] = "easy_hearts_small"
    num_cogs: int = Field(default=4, ge=1, le=24)
    max_steps: int | None = Field(default=None, ge=2)
    """Steps of an episode; None takes the mission's own (256 small, 1000 full)."""


class PettingZooEnv(Settings):
    """A PettingZoo parallel environment; each agent is a row."""

    kind: Literal["pettingzoo"] = "pettingzoo"
    factory: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    """`module:function` that returns the parallel environment."""
    kwargs: dict[str, Any] = Field(default_factory=dict)


class FactoryEnv(Settings):
    """A user's own Gymnasium environment."""

    kind: Literal["factory"] = "factory"
    factory: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    """`module:function` that returns a gymnasium.Env or gymnasium.vector.VectorEnv."""
    kwargs: dict[str, Any] = Field(default_factory=dict)


EnvSettings = Annotated[GymnasiumEnv | CogsEnv | PettingZooEnv | FactoryEnv, Field(discriminator="kind")]


class ActorSettings(Settings):
    """The processes that step environments."""

    count: int = Field(default=2, ge=1, le=10_000)
    """Actor processes to begin with."""
    envs_per_actor: int = Field(default=16, ge=1)
    """Environments one actor steps together; each of an environment's agents is a trajectory."""
    unroll_length: int = Field(default=64, ge=1)
    """T, the steps of a trajectory."""
    when_full: Literal["block", "drop_oldest"] = "block"
    """What an actor does while the queue is full: wait, or go on and drop its oldest unsent unroll (counted as evicted)."""
    max_restarts: int = Field(default=5, ge=0)
    """Restarts of an actor in a row without progress before the run ends."""
    hang_timeout: float = Field(default=300.0, gt=0)
    """Seconds without progress after which an actor writes all stacks to its log and ends, to be started again."""
    seed: int = Field(default=0, ge=0)
    """The root of every environment's and every policy's random numbers."""
