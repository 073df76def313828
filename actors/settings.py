"""Settings of environments and actors (no torch)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from oatmill.settings.base import Settings
from oatmill.settings.complaints import nearest

WRAPPERS = (
    "frame_stack",
    "grey",
    "max_and_skip",
    "record_statistics",
    "repeat_action",
    "resize",
    "reward_clip",
    "sticky_actions",
    "time_limit",
)
"""The names that `env.wrappers` knows (`actors.environments.wrappers`)."""
FUNCTION = r"^[\w.]+:[\w.]+$"
SELECTED_BY = {
    "gymnasium": "id",
    "envpool": "id",
    "minigrid": "id",
    "atari": "game",
    "minatar": "game",
    "dmc": "task",
    "cogs": "mission",
    "pettingzoo": "factory",
    "factory": "factory",
}
"""For each kind of environment, the setting that selects one."""
ChannelAxis = Annotated[
    Literal["auto", "first", "last"],
    Field(
        description="Which axis of an image holds the channels. `auto` uses the first or the last axis if only one\n"
        "of them has the size 1, 3, 4, 12 or 16. If the shape is ambiguous, an error\n"
        "asks you to set this."
    ),
]


class Heard(Settings):
    """The settings of all environments whose `info` is read."""

    info_metrics: list[str] = Field(default_factory=list)
    """Numbers and booleans in the `info` of an episode's last step that are reported, besides
    `is_success` and `score`: names, and patterns such as `reward_*`, which are matched once at the
    start. The name of a number in a mapping inside `info` is `outer.inner`. With several agents,
    `name` is the mean over the agents, and `agent.name` is the number of one agent."""


class Wrapped(Heard):
    """The settings of all environments that are built copy by copy."""

    wrappers: list[str | dict[str, Any]] = Field(default_factory=list)
    """Wrappers around each copy, the innermost first. Each is a name (frame_stack, grey, max_and_skip,
    record_statistics, repeat_action, resize, reward_clip, sticky_actions, time_limit), or `module:function`
    that takes an environment and returns one. With arguments it is a mapping such as
    `{name: time_limit, max_episode_steps: 200}`."""

    @field_validator("wrappers")
    @classmethod
    def _check_wrappers(cls, entries: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
        for entry in entries:
            name = entry if isinstance(entry, str) else str(entry.get("name", ""))
            if not name:
                raise ValueError(f"each wrapper must be a name, or a mapping with a name and arguments, got {entry!r}")
            if name not in WRAPPERS and not re.match(FUNCTION, name):
                raise ValueError(
                    f"each wrapper must be one of {', '.join(WRAPPERS)}, or your own as module:function, got {name!r}; "
                    f"the nearest is {nearest(name, WRAPPERS)}"
                )
        return entries


class GymnasiumEnv(Wrapped):
    """An environment from Gymnasium's registry; several copies are stepped together."""

    kind: Literal["gymnasium"] = "gymnasium"
    """Kind of environment."""
    id: str = Field(min_length=1)
    """Id of the environment, as `gymnasium.make` takes it, such as CartPole-v1."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the environment's constructor."""
    vectorization: Literal["auto", "sync", "vector_entry_point"] = "auto"
    """How copies are stepped: one by one (`sync`), or by the environment's own vectorised class
    (`vector_entry_point`). `auto` uses that class if there is one and no wrappers are set."""
    channels: ChannelAxis = "auto"

    @model_validator(mode="after")
    def _check_vectorization(self) -> GymnasiumEnv:
        if self.wrappers and self.vectorization == "vector_entry_point":
            raise ValueError(
                "env.wrappers wraps single copies; expected env.vectorization=sync or auto, got vector_entry_point"
            )
        return self


class CogsEnv(Settings):
    """Cogs versus clips on MettaGrid: agents gather elements, assemble hearts and fill a chest."""

    kind: Literal["cogs"] = "cogs"
    """Kind of environment."""
    mission: Literal["easy_hearts_small", "easy_hearts"] = "easy_hearts_small"
    """The mission: a 9x9 map with 5 actions, or the tuning guide's map with 157."""
    num_cogs: int = Field(default=4, ge=1, le=24)
    """Agents in the team."""
    max_steps: int | None = Field(default=None, ge=2)
    """Length of an episode. Null uses the mission's own (256 small, 1000 full)."""


class MiniGridEnv(Heard):
    """A MiniGrid environment; the agent observes the 7x7 cells in front of it and its direction."""

    kind: Literal["minigrid"] = "minigrid"
    """Kind of environment."""
    id: str = Field(default="MiniGrid-DoorKey-6x6-v0", min_length=1)
    """Id of the environment, as MiniGrid registers it."""
    max_steps: int | None = Field(default=None, ge=2)
    """Length of an episode. Null uses the environment's own (360 for DoorKey-6x6)."""


class AtariEnv(Heard):
    """An Atari game on the Arcade Learning Environment, stepped by its own vectorised class."""

    kind: Literal["atari"] = "atari"
    """Kind of environment."""
    game: str = Field(default="pong", pattern=r"^[a-z][a-z0-9_]*$")
    """Name of the game's ROM, such as pong or ms_pacman."""
    frame_skip: int = Field(default=4, ge=1)
    """Frames per action. The observation is the maximum of the last two."""
    stack: int = Field(default=4, ge=1)
    """Frames per observation."""
    screen_size: int = Field(default=84, ge=36)
    """Height and width of a frame, in pixels."""
    repeat_action_probability: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a frame repeats the previous action ("sticky actions"; 0.25 in Machado et
    al. 2018)."""
    noop_max: int = Field(default=30, ge=0)
    """An episode begins with up to this many frames without an action, so that episodes differ."""
    episodic_life: bool = False
    """Whether the loss of a life ends the episode."""
    full_action_space: bool = False
    """Use all 18 actions instead of those that the game needs."""
    max_frames: int = Field(default=108_000, ge=2)
    """Frames after which an episode is truncated; the default is half an hour of play."""


class MinAtarEnv(Wrapped):
    """A MinAtar game: 10x10 cells, one channel for each kind of object."""

    kind: Literal["minatar"] = "minatar"
    """Kind of environment."""
    game: Literal["asterix", "breakout", "freeway", "seaquest", "space_invaders"] = "breakout"
    """Name of the game."""
    repeat_action_probability: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a step repeats the previous action ("sticky actions")."""
    difficulty_ramping: bool = True
    """Whether the game becomes harder with time."""
    full_action_space: bool = False
    """Use all 6 actions instead of those that the game needs."""


class DmcEnv(Wrapped):
    """A task of the DeepMind Control Suite, with observations as one vector."""

    kind: Literal["dmc"] = "dmc"
    """Kind of environment."""
    task: str = Field(default="cheetah-run", min_length=1)
    """Domain and task, such as cheetah-run or walker-walk."""
    action_repeat: int = Field(default=1, ge=1)
    """Task steps per action (action repeat). Their rewards are summed."""


class EnvPoolEnv(Heard):
    """An environment of EnvPool; all copies of an actor are stepped in C++ by one call."""

    kind: Literal["envpool"] = "envpool"
    """Kind of environment."""
    id: str = Field(min_length=1)
    """Id of the environment, as EnvPool lists it, such as Pong-v5 or CartPole-v1."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further options of the environment, such as `{stack_num: 4, frame_skip: 4}`."""
    threads: int = Field(default=1, ge=0)
    """Threads of one actor's pool; 0 uses one thread per core of the machine."""
    channels: ChannelAxis = "auto"


class PettingZooEnv(Heard):
    """A PettingZoo parallel environment; each agent is a row."""

    kind: Literal["pettingzoo"] = "pettingzoo"
    """Kind of environment."""
    factory: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    """`module:function` that returns a PettingZoo parallel environment."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""
    channels: ChannelAxis = "auto"


class FactoryEnv(Wrapped):
    """A user's own Gymnasium environment."""

    kind: Literal["factory"] = "factory"
    """Kind of environment."""
    factory: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    """`module:function` that returns a gymnasium.Env or gymnasium.vector.VectorEnv."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""
    channels: ChannelAxis = "auto"


EnvSettings = Annotated[
    GymnasiumEnv | CogsEnv | MiniGridEnv | AtariEnv | MinAtarEnv | DmcEnv | EnvPoolEnv | PettingZooEnv | FactoryEnv,
    Field(discriminator="kind"),
]


class ActorSettings(Settings):
    """The processes that step environments."""

    count: int = Field(default=2, ge=1, le=10_000)
    """Number of actor processes at the start."""
    envs_per_actor: int = Field(default=16, ge=1)
    """Environment copies that one actor steps together. Each agent of a copy is one row."""
    unroll_length: int = Field(default=64, ge=1)
    """T: the steps of a trajectory."""
    when_full: Literal["block", "drop_oldest"] = "block"
    """What an actor does while the queue is full: wait (`block`), or continue and drop its oldest
    unsent trajectories, which are counted as evicted (`drop_oldest`)."""
    synchronous: bool = False
    """Collect the next batch only after the learner has trained on the last one and published its weights. All data
    then comes from the newest policy (no policy lag), and actors and learner take turns. Otherwise the actors
    collect the next batch while the learner trains, with a policy that is one version older."""
    compression: Literal["auto", "lz4", "none"] = "auto"
    """Compression of trajectories between actors and the replay server. `auto` uses lz4 over TCP if most of an
    observation is integers or booleans, such as images. A durable log stores trajectories as they were sent."""
    max_restarts: int = Field(default=5, ge=0)
    """Consecutive restarts of an actor, with no complete unroll in between, before the run fails."""
    hang_timeout: float = Field(default=300.0, gt=0)
    """Seconds without progress after which an actor writes all stack traces to its log and exits,
    to be restarted."""
    memory_bytes: int | None = Field(default=None, ge=2**28)
    """Memory that an actor may use, in bytes. A process that uses more logs an error, exits and is
    restarted. Null means 80 % of the memory of the machine or container."""
    seed: int = Field(default=0, ge=0)
    """Seed of the environments and of the actors' policies."""
