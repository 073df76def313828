"""A handwritten learner step: one function for PPO and one for all five losses.

It contains what a careful programmer would write for exactly these settings. It has no plan, plug-ins,
statistics, ranks or checks for finite numbers, and it uses no mask that is True everywhere.
`benchmarks.suite.learner_step` compares oatmill's learner step with it. A test checks that both give the
same parameters after a step, so that neither leaves work out.

The settings are: a scalar value head, one action factor, no recurrent core, GAE with V-trace's
corrections, the behaviour anchor, normalised advantages, CMPO over all actions with the prior's value as
the baseline, and a policy horizon of 1.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from agent.dynamics.transition import ScaleGradient
from agent.model import AgentModel
from learner.settings import TrainerSettings
from learner.update.flat_adamw import Flat, FlatAdamW
from learner.update.objective import SMALL_BYTES


class ByHand:
    """A network and its optimiser, and for all five losses the prior network and the running scale of advantages.

    Args:
        model: the network; it is copied.
        trainer: the settings, which both functions read.
        seed: the seed of the minibatches.
    """

    def __init__(self, model: AgentModel, trainer: TrainerSettings, seed: int) -> None:
        self.model = copy.deepcopy(model)
        self.prior = copy.deepcopy(model).requires_grad_(requires_grad=False)
        self.trainer = trainer
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        pairs = zip(self.prior.parameters(), self.model.parameters(), strict=True)
        self.flat_prior = Flat([old for old, new in pairs if new.requires_grad])
        self.optimizer = FlatAdamW(self.parameters, trainer.optimizer)
        self.moment = self.weight = 0.0

    def apply(self, loss: Tensor) -> None:
        """Compute the gradient, clip it, and apply one update."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = self.optimizer.flat.gradient()
        self.optimizer.step(gradient, torch.linalg.vector_norm(gradient).item(), self.trainer.max_grad_norm)

    def minibatches(self, whole: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """The minibatches of an epoch; large arrays are indexed per minibatch."""
        order = torch.randperm(len(whole["column"]), generator=self.generator)
        parts = order.chunk(self.trainer.minibatches)
        lengths = [len(part) for part in parts]
        small = {name: tensor[order].split(lengths) for name, tensor in whole.items() if tensor.nbytes <= SMALL_BYTES}
        for position, rows in enumerate(parts):
            part = {name: pieces[position] for name, pieces in small.items()}
            yield part | {name: tensor[rows] for name, tensor in whole.items() if name not in small}


def encode(model: AgentModel, observations: Tensor) -> Tensor:
    """The latents of observations `[B, T, ...]`."""
    encoded: Tensor = model.encoder(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])
    return encoded


def values_of(model: AgentModel, latent_BT1H: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Values of all observations and of the final observations of truncated steps."""
    value_BT1 = model.value(latent_BT1H).squeeze(-1)
    final_BT = torch.zeros_like(value_BT1[:, :-1])
    if len(inputs["final_step"]):
        finals = model.value(model.encoder(inputs["final_observations"])).squeeze(-1)
        final_BT[inputs["final_trajectory"], inputs["final_step"]] = finals
    return value_BT1, final_BT


def returns_of(
    trainer: TrainerSettings, inputs: Mapping[str, Tensor], value_BT1: Tensor, final_BT: Tensor, ratio_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets: GAE with V-trace's corrections."""
    critic, gamma = trainer.losses.ppo_critic, trainer.discount
    terminated, truncated = inputs["terminated_BT"], inputs["truncated_BT"]
    following = torch.where(truncated, final_BT, value_BT1[:, 1:]).masked_fill(terminated, 0.0)
    delta = inputs["rewards_BT"] + gamma * following - value_BT1[:, :-1]
    decay = gamma * critic.gae_lambda * (~(terminated | truncated)).float()
    rho, c = ratio_BT.clamp(max=critic.rho_clip), ratio_BT.clamp(max=critic.c_clip)
    excess, factor, reach = rho * delta, c * decay, 1
    while reach < delta.shape[1]:  # each pass doubles the number of steps that it looks ahead
        further = factor * shifted(factor, reach)
        excess, factor = excess + factor * shifted(excess, reach), further
        reach *= 2
    return delta + decay * shifted(excess, 1), value_BT1[:, :-1] + excess


def normalised(advantage_BT: Tensor) -> Tensor:
    """The values, shifted and scaled to mean 0 and standard deviation 1."""
    wide = advantage_BT.double()
    return ((wide - wide.mean()) / (wide.std(correction=0) + 1e-8)).float()


def ppo_loss(trainer: TrainerSettings, log_probs: Tensor, value: Tensor, part: Mapping[str, Tensor]) -> Tensor:
    """The clipped surrogate, the entropy bonus and the critic."""
    actor, critic = trainer.losses.ppo_actor, trainer.losses.ppo_critic
    ratio = (log_probs.gather(-1, part["column"]).squeeze(-1) - part["behaviour"]).exp()
    advantage = part["advantage"]
    gain = torch.minimum(advantage * ratio, advantage * ratio.clamp(1 - actor.clip_coef, 1 + actor.clip_coef))
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    error = 0.5 * (value - part["target"]) ** 2
    return critic.vf_coef * error.mean() - gain.mean() - actor.ent_coef * entropy.mean()


def ppo_step(hand: ByHand, inputs: Mapping[str, Tensor]) -> None:
    """One learner step of critic and actor."""
    model, trainer = hand.model, hand.trainer
    with torch.no_grad():
        latent = encode(model, inputs["observations_BT1"])
        value, final = values_of(model, latent, inputs)
        column = inputs["actions_BT"].long().unsqueeze(-1)
        log_prob = log_softmax(model.policy(latent[:, :-1]), -1).gather(-1, column).squeeze(-1)
        behaviour = inputs["behaviour_log_probs_BTA"].gather(-1, column).squeeze(-1)
        advantage, target = returns_of(trainer, inputs, value, final, (log_prob - behaviour).exp())
        whole = {"column": column, "behaviour": behaviour, "advantage": normalised(advantage), "target": target}
        whole["observations"] = inputs["observations_BT1"][:, :-1]
    for _ in range(trainer.epochs):
        for part in hand.minibatches(whole):
            latent = encode(model, part["observations"])
            log_probs = log_softmax(model.policy(latent), -1)
            hand.apply(ppo_loss(trainer, log_probs, model.value(latent).squeeze(-1), part))


def shifted(values: Tensor, by: int) -> Tensor:
    """Move values[:, t + by] to t; 0 (or False) after the end."""
    return values if by == 0 else torch.cat([values[:, by:], torch.zeros_like(values[:, :by])], 1)


def unroll_targets(inputs: Mapping[str, Tensor], target: Tensor, policy: Tensor, steps: int) -> dict[str, Tensor]:
    """Targets and masks of the model's predictions k steps ahead."""
    terminated, ends = inputs["terminated_BT"], inputs["terminated_BT"] | inputs["truncated_BT"]
    alive = torch.ones_like(ends)
    found: dict[str, list[Tensor]] = {"reward": [], "reward_mask": [], "return": [], "return_mask": []}
    for k in range(steps):
        inside = torch.ones_like(ends)
        inside[:, ends.shape[1] - k :] = False
        alive = alive & inside
        found["reward"].append(shifted(inputs["rewards_BT"], k) * alive)
        found["reward_mask"].append(alive)
        over = alive & shifted(terminated, k)
        alive = alive & ~shifted(ends, k)
        alive[:, ends.shape[1] - k - 1 :] = False
        found["return"].append(torch.where(alive, shifted(target, k + 1), 0.0))
        found["return_mask"].append(alive | over)
        if k == 0:
            policy_mask = alive
    stacked = {name: torch.stack(tensors, -1) for name, tensors in found.items()}
    policy = torch.where(policy_mask.unsqueeze(-1), shifted(policy, 1), 0.0)
    return stacked | {"next_policy": policy, "next_mask": policy_mask}


def all_prepared(hand: ByHand, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The targets of all five losses for the whole batch."""
    model, prior, trainer = hand.model, hand.prior, hand.trainer
    cmpo = trainer.losses.cmpo
    latent = encode(model, inputs["observations_BT1"])
    value, final = values_of(model, latent, inputs)
    column = inputs["actions_BT"].long().unsqueeze(-1)
    log_prob = log_softmax(model.policy(latent[:, :-1]), -1).gather(-1, column).squeeze(-1)
    behaviour = inputs["behaviour_log_probs_BTA"].gather(-1, column).squeeze(-1)
    advantage, target = returns_of(trainer, inputs, value, final, (log_prob - behaviour).exp())
    prior_latent = encode(prior, inputs["observations_BT1"])[:, :-1]
    prior_log_probs = log_softmax(prior.policy(prior_latent), -1)
    prior_value = prior.value(prior_latent).squeeze(-1)
    rows = []
    for latent_TH in prior_latent:  # one trajectory at a time, to limit the memory
        pushed = prior.transition.state(latent_TH).unsqueeze(-2) + prior.transition.action.weight
        moved = prior.transition.norm(latent_TH.unsqueeze(-2) + prior.transition.output(torch.relu(pushed)))
        rows.append(prior.model_reward(moved).squeeze(-1) + trainer.discount * prior.model_value(moved).squeeze(-1))
    error = (target - prior_value).double()
    hand.moment = cmpo.variance_decay * hand.moment + (1 - cmpo.variance_decay) * float(error.square().mean())
    hand.weight = cmpo.variance_decay * hand.weight + (1 - cmpo.variance_decay)
    sigma = (hand.moment / hand.weight + cmpo.variance_eps) ** 0.5
    tilt = ((torch.stack(rows) - prior_value.unsqueeze(-1)) / sigma).clamp(-cmpo.advantage_clip, cmpo.advantage_clip)
    policy = log_softmax(prior_log_probs + tilt, -1).exp()
    return {
        "observations": inputs["observations_BT1"][:, :-1],
        "column": column,
        "behaviour": behaviour,
        "advantage": normalised(advantage),
        "target": target,
        "policy": policy,
        **unroll_targets(inputs, target, policy, trainer.losses.dynamics.unroll_steps),
    }


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of unmasked values."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def model_loss(hand: ByHand, latent: Tensor, part: Mapping[str, Tensor]) -> Tensor:
    """The losses of the model's rewards, returns and policies."""
    model, losses = hand.model, hand.trainer.losses
    steps, dynamics = latent.shape[1], losses.dynamics
    advanced = []
    for k in range(dynamics.unroll_steps):
        latent = ScaleGradient.apply(latent, dynamics.gradient_scale)  # type: ignore[no-untyped-call]
        index = (torch.arange(steps) + k).clamp(max=steps - 1)
        latent = model.transition(latent, part["column"][:, index])
        advanced.append(latent)
    stacked = torch.stack(advanced, 2)
    reward = 0.5 * (model.model_reward(stacked).squeeze(-1) - part["reward"]) ** 2
    returned = 0.5 * (model.model_value(stacked).squeeze(-1) - part["return"]) ** 2
    log_probs = log_softmax(model.model_policy(stacked[:, :, 0]), -1)
    cross_entropy = -(part["next_policy"] * log_probs).sum(-1)
    return (
        dynamics.reward_pred_coef * masked_mean(reward, part["reward_mask"])
        + dynamics.returns_pred_coef * masked_mean(returned, part["return_mask"])
        + losses.muesli_model.policy_pred_coef * masked_mean(cross_entropy, part["next_mask"])
    )


def all_losses_step(hand: ByHand, inputs: Mapping[str, Tensor]) -> None:
    """One learner step of critic, actor, CMPO, dynamics and Muesli's model."""
    model, trainer = hand.model, hand.trainer
    with torch.no_grad():
        whole = all_prepared(hand, inputs)
    for _ in range(trainer.epochs):
        for part in hand.minibatches(whole):
            latent = encode(model, part["observations"])
            log_probs = log_softmax(model.policy(latent), -1)
            loss = ppo_loss(trainer, log_probs, model.value(latent).squeeze(-1), part)
            policy = part["policy"]
            kl = torch.special.xlogy(policy, policy).sum(-1) - (policy * log_probs).sum(-1)
            loss = loss + trainer.losses.cmpo.kl_coef * kl.mean() + model_loss(hand, latent, part)
            hand.apply(loss)
            with torch.no_grad():
                hand.flat_prior.array.lerp_(hand.optimizer.flat.array, trainer.losses.cmpo.prior_ema_rate)
