"""RLlib's APPO with two env runners on this machine."""

import time

import ale_py
import gymnasium
import ray
from common import SETTINGS, options, tell
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.env.wrappers.atari_wrappers import wrap_atari_for_new_api_stack
from ray.tune import register_env

NATURE = [[32, 8, 4, "valid"], [64, 4, 2, "valid"], [64, 3, 1, "valid"]]


def make_pong(_config):
    """Four frames of 84x84, by RLlib's own wrappers."""
    gymnasium.register_envs(ale_py)
    env = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
    return wrap_atari_for_new_api_stack(env, dim=84, framestack=4)


def network(settings):
    """The model's settings: the same convolutions and dense layers as oatmill's."""
    if settings["environment"] != "pong":
        return {"fcnet_hiddens": settings["hidden_sizes"], "fcnet_activation": settings["activation"]}
    dense = {"head_fcnet_hiddens": settings["hidden_sizes"], "head_fcnet_activation": settings["activation"]}
    return {"conv_filters": NATURE, "conv_activation": "relu", "vf_share_layers": True, **dense}


def main():
    """Train for the given number of steps."""
    chosen, s = options(), SETTINGS
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    register_env("pong", make_pong)
    config = (
        APPOConfig()
        .environment(s["environment"])
        .env_runners(
            num_env_runners=s["workers"],
            num_envs_per_env_runner=s["envs"] // s["workers"],
            rollout_fragment_length=s["unroll"],
        )
        .learners(num_learners=0)
        .rl_module(model_config=network(s))
        .training(
            lr=s["learning_rate"],
            gamma=s["gamma"],
            train_batch_size_per_learner=s["unroll"] * s["batch_trajectories"],
            num_epochs=s["epochs"],
            entropy_coeff=s["entropy"],
            vf_loss_coeff=s["value"],
            grad_clip=s["max_grad_norm"],
            clip_param=s["clip"],
        )
        .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)
        .debugging(seed=chosen.seed)
    )
    algorithm = config.build_algo()
    steps, began, before, result = 0, 0.0, 0, {}
    while steps < chosen.steps:
        result = algorithm.train()
        steps = int(result.get("num_env_steps_sampled_lifetime", 0))
        if steps and not before:
            began, before = time.perf_counter(), steps
    rate = (steps - before) / max(time.perf_counter() - began, 1e-9)
    reached = float(result.get("env_runners", {}).get("episode_return_mean", 0.0))
    algorithm.stop()
    ray.shutdown()
    tell(peer="rllib", steps_per_s=rate, env_steps=steps, **{"return": reached})


if __name__ == "__main__":
    main()
