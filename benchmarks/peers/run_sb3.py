"""Stable-Baselines3's PPO in one process, which steps the environment copies one by one."""

import time

import gymnasium
import torch
from common import SETTINGS, mean_of_last, options, tell
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class Watch(BaseCallback):
    """Records episode returns, and when training on the first rollout has ended."""

    def __init__(self):
        super().__init__()
        self.returns, self.rollouts, self.began, self.before = [], 0, 0.0, 0

    def _on_step(self):
        self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_start(self):
        if self.rollouts == 1:
            self.began, self.before = time.perf_counter(), self.num_timesteps
        self.rollouts += 1


class Scaled(gymnasium.RewardWrapper):
    """Multiplies rewards by a scale. Episode returns are counted before this wrapper."""

    def reward(self, reward):
        """Scale."""
        return reward * SETTINGS["reward_scale"]


def main():
    """Train."""
    chosen, s = options(), SETTINGS
    torch.set_num_threads(1)
    envs = make_vec_env(s["environment"], n_envs=s["envs"], seed=chosen.seed, wrapper_class=Scaled)
    sizes = list(s["hidden_sizes"])
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=s["unroll"],
        batch_size=s["unroll"] * s["batch_trajectories"] // s["minibatches"],
        n_epochs=s["epochs"],
        learning_rate=lambda left: s["learning_rate"] * left,
        gamma=s["gamma"],
        gae_lambda=s["gae_lambda"],
        clip_range=s["clip"],
        ent_coef=s["entropy"],
        vf_coef=s["value"],
        max_grad_norm=s["max_grad_norm"],
        policy_kwargs={"net_arch": {"pi": sizes, "vf": sizes}},
        seed=chosen.seed,
        device="cpu",
    )
    watch = Watch()
    model.learn(chosen.steps, callback=watch)
    seconds = time.perf_counter() - watch.began
    tell(
        peer="stable-baselines3",
        steps_per_s=(model.num_timesteps - watch.before) / seconds,
        env_steps=model.num_timesteps,
        **{"return": mean_of_last(watch.returns)},
    )


if __name__ == "__main__":  # some peers start their workers by importing this file again
    main()
