"""Oatmill's simulations of cogs and its encoder, adapted for Sample Factory.

Both are imported from this repository, which is on the path. So environment and network are exactly the same
code.
"""

import gymnasium
import numpy as np
import torch
from common import SETTINGS
from sample_factory.algo.utils.context import global_model_factory
from sample_factory.model.encoder import Encoder
from torch import nn

from actors.environments.adapters.cogs import make_cogs
from actors.settings import CogsEnv
from agent.tokens.encoders import TokenCodebook, TokenGridEncoder

SPLITS = 2
"""Each worker has two halves: it steps one half of its simulations while the network acts for the other half."""
ARGUMENTS = {
    "batched_sampling": True,  # all rows of a half in one batch, as in oatmill's actors
    "num_envs_per_worker": SPLITS,
    "worker_num_splits": SPLITS,
    "policy_initialization": "torch_default",  # does not change the encoder's initial weights
    "value_bootstrap": True,  # episodes end only by their time limit
}
"""Options of the peer's command line that differ from those for CartPole."""


def simulations(copies, seed):
    """The environment of oatmill's actors."""
    return make_cogs(CogsEnv(mission=SETTINGS["environment"], num_cogs=SETTINGS["agents"]), copies, seed)


class Simulations(gymnasium.Env):
    """Half of a worker's simulations. Every agent is a row, as in oatmill's actors.

    The return of an episode is the mean over the team, as in oatmill. It is reported as `true_objective`,
    because the peer's own `reward` would include the first episodes, which are shortened so that the
    simulations do not end at the same time.

    Args:
        seed: the seed of the maps.
    """

    is_multiagent = True

    def __init__(self, seed):
        self.game = simulations(SETTINGS["envs"] // SETTINGS["workers"] // SPLITS, seed)
        spaces = self.game.spaces
        self.num_agents = self.game.num_rows
        self.observation_space = gymnasium.spaces.Box(0, 255, spaces.observation.shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(spaces.action.sizes[0])

    def reset(self, **_):
        """Start."""
        return self.game.reset(), {}

    def step(self, actions):
        """Take one action per row; ended episodes are reset."""
        step = self.game.step(actions)
        returns = [episode.episode_return for episode in step.episodes]
        infos = {"true_objective": sum(returns) / len(returns)} if returns else {}
        return step.observations, step.rewards, step.terminated, step.truncated, infos


def make_env(name, cfg, env_config, render_mode=None):  # noqa: ARG001  (the peer's signature)
    """Simulations with their own maps. The peer creates one more, without a worker, to read its spaces."""
    return Simulations(1_000 * cfg.seed + (env_config.env_id if env_config else 999))


class TokenGrid(Encoder):
    """oatmill's encoder of the recipe."""

    def __init__(self, cfg, obs_space):  # noqa: ARG002  (the peer's signature)
        super().__init__(cfg)
        activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[SETTINGS["activation"]]
        codebook = TokenCodebook(simulations(1, 0).spaces.observation)
        self.encoder = TokenGridEncoder(codebook, SETTINGS["hidden_sizes"], activation)

    def forward(self, obs_dict):
        """Encode tokens as a vector."""
        return self.encoder(obs_dict["obs"])

    def get_out_size(self):
        """The length of the vector."""
        return SETTINGS["hidden_sizes"][-1]

    def type_for_input_tensor(self, input_tensor_name):  # noqa: ARG002  (the peer's signature)
        """Leave the observations unchanged: tokens stay bytes."""
        return torch.uint8


def register_encoder():
    """Register the encoder with Sample Factory."""
    global_model_factory().register_encoder_factory(TokenGrid)
