"""PPO in one process with TorchRL's parts, as in its PPO tutorial: collector, GAE and ClipPPOLoss."""

import time

import torch
from common import SETTINGS, mean_of_last, options, tell
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, RewardScaling, RewardSum, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.transforms import Compose
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE


def main():
    """Train."""
    chosen, s = options(), SETTINGS
    torch.set_num_threads(1)
    torch.manual_seed(chosen.seed)
    serial = SerialEnv(s["envs"], lambda: GymEnv(s["environment"]))
    envs = TransformedEnv(serial, Compose(RewardSum(), StepCounter(), RewardScaling(0.0, s["reward_scale"])))
    net = {"num_cells": s["hidden_sizes"], "activation_class": nn.Tanh, "in_features": 4}
    policy = TensorDictModule(MLP(out_features=2, **net), in_keys=["observation"], out_keys=["logits"])
    actor = ProbabilisticActor(policy, in_keys=["logits"], distribution_class=OneHotCategorical, return_log_prob=True)
    critic = ValueOperator(MLP(out_features=1, **net), in_keys=["observation"])
    frames = s["unroll"] * s["batch_trajectories"]
    collector = Collector(envs, actor, frames_per_batch=frames, total_frames=chosen.steps // frames * frames)
    advantage = GAE(gamma=s["gamma"], lmbda=s["gae_lambda"], value_network=critic, average_gae=True)
    loss = ClipPPOLoss(actor, critic, clip_epsilon=s["clip"], entropy_coeff=s["entropy"], critic_coeff=s["value"])
    optimizer = torch.optim.Adam(loss.parameters(), s["learning_rate"])
    returns, steps, began, before = [], 0, 0.0, 0
    for data in collector:
        done = data["next", "done"].squeeze(-1)
        returns += data["next", "episode_reward"].squeeze(-1)[done].tolist()
        for _ in range(s["epochs"]):
            with torch.no_grad():
                advantage(data)
            flat = data.reshape(-1)
            for rows in torch.randperm(len(flat)).chunk(s["minibatches"]):
                values = loss(flat[rows])
                total = values["loss_objective"] + values["loss_critic"] + values["loss_entropy"]
                optimizer.zero_grad()
                total.backward()
                nn.utils.clip_grad_norm_(loss.parameters(), s["max_grad_norm"])
                optimizer.step()
        steps += data.numel()
        if not before:
            began, before = time.perf_counter(), steps
    rate = (steps - before) / (time.perf_counter() - began)
    tell(peer="torchrl", steps_per_s=rate, env_steps=steps, **{"return": mean_of_last(returns)})


if __name__ == "__main__":
    main()
