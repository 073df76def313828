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


class MiniGridEnv(Settings):
    """An environment of MiniGrid, seen as its agent sees it: what lies in the 7x7 cells before it, and where it looks."""

    kind: Literal["minigrid"] = "minigrid"
    id: str = Field(default="MiniGrid-DoorKey-6x6-v0", min_length=1)
    """As MiniGrid registers it."""
    max_steps: int | None = Field(default=None, ge=2)
    """Steps of an episode; None takes the environment's own (360 for DoorKey-6x6)."""


class AtariEnv(Settings):
    """An Atari game on the Arcade Learning Environment, stepped by its own vectorised class."""

    kind: Literal["atari"] = "atari"
    game: str = Field(default="pong", pattern=r"^[a-z][a-z0-9_]*$")
    """The name of its ROM, such as pong or ms_pacman."""
    frame_skip: int = Field(default=4, ge=1)
    """Frames that an action is held for; what is seen is the maximum of the last two."""
    stack: int = Field(default=4, ge=1)
    """Frames that an observation is made of."""
    screen_size: int = Field(default=84, ge=36)
    """Height and width that a frame is scaled to."""
    repeat_action_probability: float = Field(default=0.0, ge=0, lt=1)
    """With what probability a frame takes the action before it once more ("sticky actions"; 0.25 in Machado et al. 2018)."""
    noop_max: int = Field(default=30, ge=0)
    """An episode begins with up to so many frames in which nothing is done, so that episodes differ."""
    episodic_life: bool = False
    """Whether a lost life ends an episode."""
    full_action_space: bool = False
    """All 18 actions, instead of those that mean something in the game."""
    max_frames: int = Field(default=108_000, ge=2)
    """Frames after which an episode is truncated: half an hour of play."""


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


EnvSettings = Annotated[
    GymnasiumEnv | CogsEnv | MiniGridEnv | AtariEnv | PettingZooEnv | FactoryEnv, Field(discriminator="kind")
]


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
    memory_bytes: int | None = Field(default=None, ge=2**28)
    """Memory that an actor may hold; None takes 80 % of what the machine, or the container, has. A process that
    holds more says so and ends, to be started again."""
    seed: int = Field(default=0, ge=0)
    """The root of every environment's and every policy's random numbers."""
