"""Pong and the network of oatmill's recipe for Sample Factory: its own wrappers for Atari and its own `convnet_atari`.

Frames are those of oatmill's recipe (84x84, four in a stack, four frames per action) without the end of an episode at a lost
life, of which Pong has none. The network divides pixels by 255, where oatmill standardises each observation.
"""

import ale_py
import gymnasium

ARGUMENTS = {
    "env_frameskip": 4,
    "env_framestack": 4,
    "summaries_use_frameskip": False,
    "encoder_conv_architecture": "convnet_atari",
    "obs_scale": 255.0,
    "use_record_episode_statistics": True,
}
"""Options of the peer's command line that differ from those for CartPole."""


def make_env(name, cfg, env_config, render_mode=None):
    """A copy of the game; ALE's ids are registered here, because each worker of the peer is a process of its own."""
    from sf_examples.atari.atari_utils import make_atari_env  # noqa: PLC0415  (only where ale_py is)

    if "PongNoFrameskip-v4" not in gymnasium.registry:
        gymnasium.register_envs(ale_py)
    return make_atari_env(f"atari_{name}", cfg, env_config, render_mode)
