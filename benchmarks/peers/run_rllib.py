"""RLlib's APPO with two env runners on this machine."""

import time

import ray
from common import SETTINGS, options, tell
from ray.rllib.algorithms.appo import APPOConfig


def main():
    """Train for the given number of steps."""
    chosen, s = options(), SETTINGS
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    config = (
        APPOConfig()
        .environment(s["environment"])
        .env_runners(
            num_env_runners=s["workers"],
            num_envs_per_env_runner=s["envs"] // s["workers"],
            rollout_fragment_length=s["unroll"],
        )
        .learners(num_learners=0)
        .rl_module(model_config={"fcnet_hiddens": s["hidden_sizes"], "fcnet_activation": s["activation"]})
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
