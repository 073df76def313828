"""Pong and the network of oatmill's recipe for Sample Factory: its own wrappers for Atari and its own `convnet_atari`.

Frames are those of oatmill's recipe (84x84, four in a stack, four frames per action) without the end of an episode at a lost
life, of which Pong has none. The network divides pixels by 255, where oatmill standardises each observation.
"""

from types import SimpleNamespace

import ale_py
import gymnasium
from common import SETTINGS

ARGUMENTS = {
    "env_frameskip": 4,
    "summaries_use_frameskip": False,
    "encoder_conv_architecture": "convnet_atari",
    "obs_scale": 255.0,
    "worker_num_splits": 2,
    "use_record_episode_statistics": True,
}
"""Options of the peer's command line that differ from those for CartPole."""
FRAMES = SimpleNamespace(env_frameskip=4, env_framestack=4)


def make_env(name, cfg, env_config, render_mode=None):  # noqa: ARG001  (the peer's signature)
    """A copy of the game; ALE's ids are registered here, because each worker of the peer is a process of its own."""
    from sf_examples.atari.atari_utils import make_atari_env  # noqa: PLC0415  (only where ale_py is)

    if "PongNoFrameskip-v4" not in gymnasium.registry:
        gymnasium.register_envs(ale_py)
    return make_atari_env("atari_" + SETTINGS["environment"], FRAMES, env_config, render_mode)
