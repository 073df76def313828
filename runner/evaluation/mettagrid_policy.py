"""A trained policy as MettaGrid's own policy class, for its rollouts, replays and leagues.

PolicySpec(class_path="runner.evaluation.mettagrid_policy.OatmillPolicy", data_path="runs/latest")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mettagrid.policy.policy import AgentPolicy, MultiAgentPolicy
from mettagrid.policy.policy_env_interface import PolicyEnvInterface
from mettagrid.simulator import Action, AgentObservation

from agent.checkpoint_manifest import find_checkpoint
from agent.loading import LoadedAgent, load
from oatmill.errors import UserError
from protocol.data.trajectory import Array

EMPTY = 255
"""What MettaGrid fills the rest of an observation with."""


class OatmillPolicy(MultiAgentPolicy):  # type: ignore[misc]  # mettagrid has no types
    """A policy that was trained on a mission of cogs.

    Args:
        policy_env_info: the environment that it will act in.
        device: not used; it acts on the CPU.
        deterministic: take the most likely action instead of sampling.
        seed: seed of sampled actions; each agent has its own numbers.
    """

    def __init__(
        self, policy_env_info: PolicyEnvInterface, device: str = "cpu", *, deterministic: bool = False, seed: int = 0
    ) -> None:
        super().__init__(policy_env_info, device=device)
        self._deterministic, self._seed = deterministic, seed
        self._loaded: LoadedAgent | None = None

    def load_policy_data(self, policy_data_path: str) -> None:
        """Load a checkpoint.

        Args:
            policy_data_path: run folder (its newest checkpoint is loaded), or folder of a checkpoint.

        Raises:
            UserError: if it is none, or was trained on other observations or actions.
        """
        loaded = load(find_checkpoint(Path(policy_data_path)))
        spaces, info = loaded.spec.spaces, self.policy_env_info
        trained = (tuple(spaces.observation.shape), tuple(spaces.action.sizes))
        here = (tuple(info.observation_shape), (len(info.all_action_names),))
        if trained != here:
            raise UserError(
                f"{policy_data_path} was trained on observations and actions of {trained}, and this environment has {here}; "
                "use a policy of the same mission"
            )
        self._loaded = loaded

    def agent_policy(self, agent_id: int) -> AgentPolicy:
        """The policy of one agent, with a recurrent state of its own.

        Raises:
            UserError: if no checkpoint was loaded.
        """
        if self._loaded is None:
            raise UserError("no checkpoint was loaded; give a run folder as data_path, or call load_policy_data")
        own = LoadedAgent(self._loaded.model, self._loaded.manifest, seed=self._seed + agent_id)
        return OatmillAgent(self.policy_env_info, own, deterministic=self._deterministic)


class OatmillAgent(AgentPolicy):  # type: ignore[misc]  # mettagrid has no types
    """One agent's policy."""

    def __init__(self, policy_env_info: PolicyEnvInterface, loaded: LoadedAgent, *, deterministic: bool) -> None:
        super().__init__(policy_env_info)
        self._loaded, self._deterministic = loaded, deterministic

    def step(self, obs: AgentObservation) -> Action:
        """The action for an observation."""
        row = tokens_of(obs, self.policy_env_info.observation_shape)
        chosen = int(self._loaded.act(row, deterministic=self._deterministic))
        return Action(name=self.policy_env_info.all_action_names[chosen])

    def reset(self, simulation: Any = None) -> None:  # noqa: ARG002  (mettagrid's signature)
        """Begin an episode."""
        self._loaded.reset()


def tokens_of(obs: AgentObservation, shape: tuple[int, ...]) -> Array:
    """An observation as the network takes it: uint8 `[tokens, 3]`, with the rest filled up."""
    row = np.full(shape, EMPTY, np.uint8)
    for place, token in enumerate(obs.tokens[: shape[0]]):
        row[place] = token.raw_token
    return row
