"""The missions of cogs versus clips, built from MettaGrid's primitives.

Agents gather elements at extractors, turn one of each element into a heart at the assembler, and
deposit hearts in the chest. An agent's reward is 1 for a heart that it created, 1 for one that it
deposited, 1 / num_cogs for every heart that any agent deposited, and 0.1 while it holds an element
(added with the first and subtracted with the last).

`easy_hearts_small`: a random map, carbon and oxygen, five actions. `easy_hearts`: a hub of 13x13, four
elements and 157 actions; a move costs 2 energy, each step restores 1, and the assembler needs the
agent's vibe to be `heart_a`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import numpy as np
from mettagrid.config.action_config import ActionsConfig, ChangeVibeActionConfig, MoveActionConfig, NoopActionConfig
from mettagrid.config.filter.filter import isNot
from mettagrid.config.filter.target_is_usable_filter import TargetIsUsableFilter
from mettagrid.config.filter.target_loc_empty_filter import TargetLocEmptyFilter
from mettagrid.config.filter.vibe_filter import actorVibe
from mettagrid.config.game_value import QueryInventoryValue, inv, min_value, stat, val
from mettagrid.config.handler_config import Handler, actorHas, deposit, updateActor
from mettagrid.config.mettagrid_config import (
    AgentConfig,
    GameConfig,
    GridObjectConfig,
    InventoryConfig,
    ResourceLimitsConfig,
    WallConfig,
)
from mettagrid.config.mutation.relocate_mutation import RelocateMutation
from mettagrid.config.mutation.stats_mutation import logActorAgentStat, logStatToGame
from mettagrid.config.mutation.use_target_mutation import useTarget
from mettagrid.config.obs_config import GlobalObsConfig, ObsConfig
from mettagrid.config.query import query
from mettagrid.config.reward_config import reward
from mettagrid.config.tag import typeTag
from mettagrid.config.vibes import VIBES

from actors.settings import CogsEnv
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces

WINDOW = 11
"""Rows and columns that an agent sees; the agent is in the centre."""
HEARTS_CREATED = "hearts.created"
HEARTS_DEPOSITED = "hearts.deposited"
INVENTORY_LIMIT = 255  # so that an amount fits one token
CHARGE = 50

HUB = (
    "#############",
    "#...........#",
    "#.C..+.+..O.#",
    "#...+.+.+...#",
    "#.+...E...+.#",
    "#.+.@...@.+.#",
    "#.+...A...+.#",
    "#.+.@...@.+.#",
    "#.+...H...+.#",
    "#...+.+.+...#",
    "#.G..+.+..S.#",
    "#...........#",
    "#############",
)
"""The map of the hub. The first four agents start at `@`, the others at `+`."""
HUB_OBJECTS = {
    "#": "wall",
    "A": "assembler",
    "H": "chest",
    "E": "charger",
    "C": "carbon_extractor",
    "O": "oxygen_extractor",
    "G": "germanium_extractor",
    "S": "silicon_extractor",
}
AGENT = "agent.agent"
EMPTY = "empty"


@dataclass(frozen=True)
class Mission:
    """The parameters of a mission.

    Attributes:
        elements: the amount of each element that one use of its extractor gives.
        max_steps: the length of an episode.
        num_tokens: the tokens of an observation; more are used if num_cogs needs them.
        hub: whether the map is the hub; otherwise it is random.
        vibes: whether agents can change their vibe and need `heart_a` to create a heart.
        move_cost: the energy of one move or use; with a cost, each step restores 1.
    """

    elements: dict[str, int]
    max_steps: int
    num_tokens: int
    hub: bool
    vibes: bool
    move_cost: int


MISSIONS = {
    "easy_hearts_small": Mission(
        {"carbon": 2, "oxygen": 10}, max_steps=256, num_tokens=128, hub=False, vibes=False, move_cost=0
    ),
    "easy_hearts": Mission(
        {"carbon": 2, "oxygen": 10, "germanium": 2, "silicon": 15},
        max_steps=1000,
        num_tokens=200,
        hub=True,
        vibes=True,
        move_cost=2,
    ),
}


class CogsGame:
    """A mission's configuration, maps and spaces for a number of agents.

    Args:
        settings: the mission, the number of agents, and the length of an episode.
    """

    def __init__(self, settings: CogsEnv) -> None:
        self.mission = MISSIONS[settings.mission]
        self.num_cogs = settings.num_cogs
        self.max_steps = settings.max_steps or self.mission.max_steps
        self.num_tokens = max(self.mission.num_tokens, self._most_tokens())
        self.config = self._config()

    @property
    def spaces(self) -> Spaces:
        """The spaces of one agent.

        Categories from `num_categories` on count as the last one. So only the first few vibes are
        distinguished, which is enough, because `heart_a` is the second.
        """
        features = self.config.id_map().features()
        ids = {feature.name: feature.id for feature in features}
        categorical = ["last_action", "tag", *(["vibe"] if self.mission.vibes else [])]
        observation = ObservationSpace(
            "tokens",
            (self.num_tokens, 3),
            "uint8",
            feature_scales=tuple(float(feature.normalization) for feature in features),
            categorical_features=tuple(sorted(ids[name] for name in categorical)),
            num_categories=len(self.config.id_map().tag_names()),
            window=(WINDOW, WINDOW),
        )
        return Spaces(observation, ActionSpace((len(self.config.actions.actions()),)))

    def make_map(self, rng: np.random.Generator) -> list[list[str]]:
        """The cells of a map, row by row, with MettaGrid's names.

        Args:
            rng: the random number generator for random maps.
        """
        return self._hub_map() if self.mission.hub else self._random_map(rng)

    def _hub_map(self) -> list[list[str]]:
        starts = [(y, x) for mark in "@+" for y, row in enumerate(HUB) for x, cell in enumerate(row) if cell == mark]
        taken = set(starts[: self.num_cogs])
        return [
            [AGENT if (y, x) in taken else HUB_OBJECTS.get(cell, EMPTY) for x, cell in enumerate(row)]
            for y, row in enumerate(HUB)
        ]

    def _random_map(self, rng: np.random.Generator) -> list[list[str]]:
        side = self._interior_side()
        things = [*self._stations(), *[AGENT] * self.num_cogs]
        cells = np.full(side * side, EMPTY, dtype=object)
        cells[rng.permutation(side * side)[: len(things)]] = things
        wall = ["wall"] * (side + 2)
        return [wall, *[["wall", *row, "wall"] for row in cells.reshape(side, side).tolist()], wall]

    def _interior_side(self) -> int:
        # 7 (9 with walls), or more if fewer than half of the cells would be free.
        return max(7, ceil(sqrt(2 * (len(self._stations()) + self.num_cogs))))

    def _stations(self) -> list[str]:
        return [*(f"{element}_extractor" for element in self.mission.elements), "charger", "assembler", "chest"]

    def _most_tokens(self) -> int:
        # Tokens of an agent: tag, group, id, energy, heart, vibe and each element. MettaGrid raises an
        # exception if tokens do not fit.
        of_agents = self.num_cogs * (6 + len(self.mission.elements))
        of_walls = 4 * (WINDOW - 1)
        of_nothing_in_sight = 3  # completion, last action, last reward
        return of_agents + of_walls + len(self._stations()) + of_nothing_in_sight

    def _config(self) -> GameConfig:
        mission = self.mission
        vibes = sorted(VIBES, key=lambda vibe: {"default": 0, "heart_a": 1}.get(vibe.name, 2)) if mission.vibes else VIBES[:1]
        return GameConfig(
            num_agents=self.num_cogs,
            max_steps=self.max_steps,
            episode_truncates=True,
            resource_names=["energy", *mission.elements, "heart"],
            objects=self._objects(),
            protocol_details_obs=False,
            obs=ObsConfig(
                width=WINDOW,
                height=WINDOW,
                num_tokens=self.num_tokens,
                global_obs=GlobalObsConfig(goal_obs=False, last_action_move=False),
            ),
            actions=ActionsConfig(
                noop=NoopActionConfig(),
                move=MoveActionConfig(handlers=_paid_moves(mission.move_cost) if mission.move_cost else []),
                change_vibe=ChangeVibeActionConfig(enabled=mission.vibes, vibes=vibes),
            ),
            agent=self._agent(),
        )

    def _objects(self) -> dict[str, Any]:
        mission = self.mission
        needs: list[Any] = [actorHas(dict.fromkeys(mission.elements, 1))]
        if mission.vibes:
            needs.append(actorVibe("heart_a"))
        uses = {
            f"{element}_extractor": Handler(mutations=[updateActor({element: amount})])
            for element, amount in mission.elements.items()
        }
        uses["charger"] = Handler(mutations=[updateActor({"energy": CHARGE})])
        uses["assembler"] = Handler(
            filters=needs,
            mutations=[updateActor({**dict.fromkeys(mission.elements, -1), "heart": 1}), *_counted(HEARTS_CREATED)],
        )
        uses["chest"] = Handler(
            filters=[actorHas({"heart": 1})], mutations=[deposit({"heart": 1}), *_counted(HEARTS_DEPOSITED)]
        )
        stations = {name: GridObjectConfig(name=name, on_use_handler=handler) for name, handler in uses.items()}
        return {"wall": WallConfig(name="wall"), **stations}

    def _agent(self) -> AgentConfig:
        mission = self.mission
        in_chest = QueryInventoryValue(query=query(typeTag("chest")), item="heart")
        rewards = {
            "created": reward(stat(HEARTS_CREATED), weight=1.0),
            "deposited": reward(stat(HEARTS_DEPOSITED), weight=1.0),
            "chest": reward(in_chest, weight=1.0 / self.num_cogs),
            **{f"has_{element}": reward(min_value([inv(element), val(1)]), weight=0.1) for element in mission.elements},
        }
        kinds = {"heart": ["heart"], "energy": ["energy"], "cargo": list(mission.elements)}
        limits = {name: ResourceLimitsConfig(base=INVENTORY_LIMIT, resources=kind) for name, kind in kinds.items()}
        return AgentConfig(
            rewards=rewards,
            inventory=InventoryConfig(default_limit=INVENTORY_LIMIT, limits=limits, initial={"energy": INVENTORY_LIMIT}),
            on_tick=Handler(mutations=[updateActor({"energy": 1})]) if mission.move_cost else None,
        )


def _paid_moves(cost: int) -> list[Any]:
    """Handlers that charge energy for moving and for using a station; failed moves are free.

    mettagrid 0.26 does not charge `MoveActionConfig.consumed_resources`. A move that none of these
    handlers accepts would go to the engine's own handlers, which are free. Therefore the last two
    accept the moves of agents without enough energy, and do nothing.
    """
    can_pay, pay = actorHas({"energy": cost}), updateActor({"energy": -cost})
    free, usable = TargetLocEmptyFilter(), TargetIsUsableFilter()
    return [
        Handler(name="walk", filters=[free, can_pay], mutations=[RelocateMutation(), pay]),
        Handler(name="use", filters=[usable, can_pay], mutations=[useTarget(), pay]),
        Handler(name="rest_from_walking", filters=[free, isNot(can_pay)]),
        Handler(name="rest_from_using", filters=[usable, isNot(can_pay)]),
    ]


def _counted(name: str) -> list[Any]:
    # Counted for the agent, for its reward, and for the game, for the episode's statistics.
    return [logActorAgentStat(name), logStatToGame(name)]
