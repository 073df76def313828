"""The network: a trunk (encoder and optional core), policy and value heads, and a dynamics model.

The dynamics model follows MuZero: it maps a latent state and an action to the next latent state. Its
own heads, shared over all model steps, predict the reward, the value and the policy from it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from agent.core import Core
from agent.dynamics.transition import Transition
from agent.encoders import make_trunk_encoder
from agent.heads import LatentHead, PartHead, make_codec, zero_init
from agent.masks import allowed_of, following, masked
from agent.policies import Policies
from agent.policy_head import make_policy_head, start_policy
from agent.running_moments import RunningMoments
from agent.spec import AgentSpec
from protocol.data.observations import ObservationDict, Observations, each
from protocol.data.trajectory import Array
from protocol.data.weights import Layout, layout_of

NOT_ACTING = ("transition.", "model_")


class ActOutput(NamedTuple):
    """Outputs for acting: policy rows `[N, P]`, value `[N]` and the next core state `[N, S]`."""

    logits: Tensor
    value: Tensor
    core_state: Tensor


class ModelNeeds(NamedTuple):
    """What one forward pass must return besides policy and value.

    Attributes:
        unroll_steps: K, the number of model steps; 0 for none.
        policy_steps: the number of model steps whose policies are needed.
        rewards_and_values: whether the model's rewards and values are needed.
        gradient_scale: the factor on gradients at each step back through the model.
    """

    unroll_steps: int = 0
    policy_steps: int = 0
    rewards_and_values: bool = False
    gradient_scale: float = 0.5


class RootOutputs(TypedDict):
    """Outputs at every step."""

    logits_BTA: Tensor  # policy rows: logits, then means and log stds of the action's numbers
    value_raw_BT: Tensor  # [B, T, width], as the value head's codec reads it


class UnrollOutputs(TypedDict):
    """Outputs of K model steps from every step along the taken actions; only what `needs` asks for."""

    model_reward_raw_BTK: NotRequired[Tensor]  # [B, T, K, width], the reward at t + k - 1, k = 1..K
    model_value_raw_BTK: NotRequired[Tensor]  # [B, T, K, width], the return from t + k
    model_logits_BTKA: NotRequired[Tensor]  # [B, T, policy_steps, A], the policy at t + k


class ModelOutputs(RootOutputs, UnrollOutputs):
    """All outputs of one forward pass."""


class AgentModel(nn.Module):
    """The network that actors run and the learner trains.

    Args:
        spec: the environment's spaces and the network's settings.

    Attributes:
        in_bfloat16: whether the encoder is computed in bfloat16; the parameters and everything else stay in float32.
    """

    def __init__(self, spec: AgentSpec) -> None:
        super().__init__()
        self.in_bfloat16 = False
        settings, action = spec.settings, spec.spaces.action
        self.spec = spec
        self.policies = Policies(action, settings.squash)
        self.sizes = action.sizes
        self.factored = action.factored
        self.codec = make_codec(settings.value_head, num_bins=settings.num_bins, limit=settings.value_range)
        lengths = spec.normalised
        self.normaliser = RunningMoments(sum(lengths.values()), settings.observation_clip) if lengths else None
        self.encoder = make_trunk_encoder(spec)
        self.core = None if settings.core == "none" else Core(settings.core, settings.hidden_sizes[-1], settings.core_size)
        latent = spec.latent_size
        own = settings.hidden_sizes[-1]
        apart = settings.value_trunk == "separate"
        self.policy = make_policy_head(0, own if apart else latent, latent, action, settings)
        self.value = PartHead(own, latent, self.codec.width) if apart else nn.Linear(latent, self.codec.width)
        start_policy(self.policy)
        zero_init(self.value)
        self.transition = Transition(latent, action, settings.action_embedding_std)
        self.transition.register_buffer("factor_sizes", torch.tensor(action.sizes), persistent=False)
        self.model_reward = LatentHead(latent, settings.model_hidden, self.codec.width)
        self.model_value = LatentHead(latent, settings.model_hidden, self.codec.width)
        self.model_policy = make_policy_head(0, latent, latent, action, settings)
        start_policy(self.model_policy)

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of encoder and core, which all losses train."""
        yield from self.encoder.parameters()
        if self.core is not None:
            yield from self.core.parameters()

    def dynamics_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the dynamics model and its heads, the last ones in `parameters`."""
        for name, parameter in self.named_parameters():
            if name.startswith(NOT_ACTING):
                yield parameter

    def initial_state(self, n: int) -> Tensor:
        """The recurrent state at the start of an episode, `[n, S]`; S = 0 without a core."""
        return torch.zeros(n, self.spec.core_state_size)

    @torch.inference_mode()
    def act(self, observations: Observations, core_state: Tensor) -> ActOutput:
        """Compute one step for acting, without gradients.

        Args:
            observations: `[N, ...]` in the environment's dtype; with an action mask, choices that are not
                allowed get the logit `MASKED_LOGIT`.
            core_state: recurrent states `[N, S]`.
        """
        return self.step(observations, core_state)

    def step(self, observations: Observations, core_state: Tensor) -> ActOutput:
        """What `act` computes, for tracing: it needs tensors that are not made in inference mode."""
        latent = self.encode(observations)
        if self.core is not None:
            latent, core_state = self.core.step(latent, core_state)
        return ActOutput(self.policy_rows(latent, allowed_of(observations)), self.codec.value(self.value(latent)), core_state)

    def policy_rows(self, latent: Tensor, allowed: Tensor | None) -> Tensor:
        """The policy head's output `[..., A]` for latents `[..., H]`, with action masks applied."""
        return masked(self.policy(latent), allowed)

    def latents(self, observations: Observations, core_state: Tensor, ends_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the trunk over time; the first `burn_in` steps get no gradient.

        Args:
            observations: `[B, T, ...]` or `[B, T + 1, ...]`.
            core_state: recurrent states `[B, S]` before the first observation.
            ends_BT: whether the episode ended at each step; the recurrent state is reset after it.

        Returns:
            Latents `[B, T, H]` and the recurrent states `[B, T, S]` after each step, before any reset.
        """
        if self.core is None:
            encoded = self.encoded(observations)
            return encoded, core_state.unsqueeze(1).expand(-1, encoded.shape[1], -1)
        warm = self.spec.settings.burn_in
        if not warm:
            return self.core.unroll(self.encoded(observations), core_state, ends_BT)
        with torch.no_grad():  # these steps only warm up the recurrent state
            first = self.core.unroll(self.encoded(observations[:, :warm]), core_state, ends_BT[:, :warm])
        core_state = first[1][:, -1].masked_fill(ends_BT[:, warm - 1 : warm], 0.0)
        rest = self.core.unroll(self.encoded(observations[:, warm:]), core_state, ends_BT[:, warm:])
        return torch.cat([first[0], rest[0]], 1), torch.cat([first[1], rest[1]], 1)

    def encoded(self, observations: Observations) -> Tensor:
        """Encode every step: `[B, T, ...]` to `[B, T, width]`."""
        first = next(iter(observations.values())) if isinstance(observations, dict) else observations
        encoded = self.encode(each(lambda values: values.flatten(0, 1), observations))
        shaped: Tensor = encoded.unflatten(0, tuple(first.shape[:2]))  # type: ignore[no-untyped-call]
        return shaped

    def encode(self, observations: Observations) -> Tensor:
        """Normalise observations, if the network does, and encode them: `[N, ...]` to float32 `[N, width]`."""
        read = observations if self.normaliser is None else self.normalised(observations)
        if not self.in_bfloat16:
            encoded: Tensor = self.encoder(read)
            return encoded
        with torch.autocast(next(self.parameters()).device.type, torch.bfloat16):
            half: Tensor = self.encoder(read)
        return half.float()

    def normalised(self, observations: Observations) -> Observations:
        """Normalise a vector, or each key that is one; the normaliser has their statistics one after another."""
        assert self.normaliser is not None
        if not isinstance(observations, dict):
            return self.normaliser.forward(observations)
        lengths = self.spec.normalised
        joined = self.normaliser.forward(torch.cat([observations[path].float() for path in lengths], -1))
        parts = joined.split(list(lengths.values()), -1)  # type: ignore[no-untyped-call]
        return ObservationDict({**observations, **dict(zip(lengths, parts, strict=True))})

    def forward(  # noqa: PLR0917 -- DDP passes tensors by position
        self,
        observations: Observations,
        core_state: Tensor | None,
        ends_BT: Tensor | None,
        actions: Tensor | None,
        needs: ModelNeeds,
        allowed: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> ModelOutputs:
        """Policy and value at every step and, if asked for, the outputs of K model steps.

        This is the single pass that DDP wraps.

        Args:
            observations: `[B, T, ...]`.
            core_state: recurrent states `[B, S]`; only used with a core.
            ends_BT: whether the episode ended at each step; only used with a core.
            actions: the taken actions, `[B, T]` or `[B, T, factors]`; may go beyond T if the following
                actions are known. Only used by the model steps.
            needs: the outputs that are needed besides policy and value.
            allowed: the action masks `[B, T, A]`; may go beyond T if the following masks are known. None uses
                the masks of the observations.
            starts: as in `unroll`.
        """
        if allowed is None:
            allowed = allowed_of(observations)
        if self.core is None:
            latent_BTH = self.encoded(observations)
        else:
            assert core_state is not None
            assert ends_BT is not None
            latent_BTH, _ = self.latents(observations, core_state, ends_BT)
        now = None if allowed is None else allowed[:, : latent_BTH.shape[1]]
        outputs: ModelOutputs = {"logits_BTA": self.policy_rows(latent_BTH, now), "value_raw_BT": self.value(latent_BTH)}
        if needs.unroll_steps:
            assert actions is not None
            outputs.update(self.unroll(latent_BTH, actions, needs, allowed, starts))  # type: ignore[typeddict-item]
        return outputs

    def unroll(
        self,
        latent_BTH: Tensor,
        actions: Tensor,
        needs: ModelNeeds,
        allowed: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> UnrollOutputs:
        """Unroll the model K steps from every step along the taken actions.

        The policy at t + k has the action mask of that step. If t + k - 1 is after the last action, the
        last action is used. The losses mask such predictions (`learner.nodes.masks`).

        Args:
            latent_BTH: the latents of the steps.
            actions: as in `forward`.
            needs: the outputs that are needed.
            allowed: as in `forward`.
            starts: the positions b * T + t of M steps; the model is then unrolled from these only, and the outputs
                have the axes `[M, 1]` in the place of `[B, T]`.
        """
        indexed = self.policies.indexed(actions)
        steps, last = latent_BTH.shape[1], indexed.shape[1] - 1
        k = torch.arange(needs.unroll_steps, device=latent_BTH.device).unsqueeze(-1)
        if starts is None:
            t = torch.arange(steps, device=latent_BTH.device)
            taken = indexed[:, (t + k).clamp(max=last)].transpose(0, 1)
        else:
            taken = indexed[starts // steps, (starts % steps + k).clamp(max=last)].unsqueeze(2)
            latent_BTH = latent_BTH.flatten(0, 1)[starts].unsqueeze(1)
        latents_KBTH = self.transition.unroll(latent_BTH, taken, needs.gradient_scale)
        outputs: UnrollOutputs = {}
        if needs.rewards_and_values:
            reward, value = self.reward_and_value_raw(latents_KBTH)
            outputs["model_reward_raw_BTK"], outputs["model_value_raw_BTK"] = reward.movedim(0, 2), value.movedim(0, 2)
        if needs.policy_steps:
            rows = self.model_policy(latents_KBTH[: needs.policy_steps]).movedim(0, 2)
            ahead = None if allowed is None else following(allowed, needs.policy_steps, steps)
            if ahead is not None and starts is not None:
                ahead = ahead.flatten(0, 1)[starts].unsqueeze(1)
            outputs["model_logits_BTKA"] = masked(rows, ahead)
        return outputs

    def every_action(self, latent: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """One model step for every action: the predicted rewards and values, each `[..., A]`. Only for choices.

        Args:
            latent: `[..., H]`.
            actions: the taken actions; for each choice of one factor, the other factors stay as taken.
        """
        taken = self.policies.indexed(actions) if self.factored else None
        return self.reward_and_value(self.transition.every_action(latent, taken))

    def reward_and_value(self, advanced: Tensor) -> tuple[Tensor, Tensor]:
        """The model's predicted rewards and values `[...]` at latents `[..., H]`."""
        reward, value = self.reward_and_value_raw(advanced)
        return self.codec.value(reward), self.codec.value(value)

    def reward_and_value_raw(self, advanced: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of the model's reward and value heads, `[..., width]` each; both hidden layers are one product."""
        heads = self.model_reward, self.model_value
        weight, bias = (torch.cat([getattr(head.hidden, name) for head in heads]) for name in ("weight", "bias"))
        hidden = torch.relu(linear(advanced, weight, bias))
        reward, value = (head.output(part) for head, part in zip(heads, hidden.chunk(2, -1), strict=True))
        return reward, value


def acting_parameters(model: AgentModel) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters needed for acting, in a fixed order: all except the dynamics model's."""
    for name, parameter in model.named_parameters():
        if not name.startswith(NOT_ACTING):
            yield name, parameter


def acting_tensors(model: AgentModel) -> Iterator[tuple[str, Tensor]]:
    """The parameters needed for acting, then the normaliser's statistics as they are sent."""
    for name, parameter in acting_parameters(model):
        yield name, parameter.detach()
    if model.normaliser is not None:
        yield "normaliser", model.normaliser.packed()


def acting_arrays(model: AgentModel) -> dict[str, Array]:
    """What acting needs, as float32 NumPy arrays."""
    return {name: tensor.float().cpu().numpy() for name, tensor in acting_tensors(model)}


def acting_layout(model: AgentModel) -> Layout:
    """Names and shapes of `acting_arrays`."""
    return layout_of(acting_arrays(model))


def saved_tensors(model: AgentModel) -> dict[str, Tensor]:
    """What a checkpoint holds of a network: its parameters, and the sums of its normaliser."""
    saved: dict[str, Tensor] = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if model.normaliser is not None:
        saved |= {f"normaliser.{name}": buffer for name, buffer in model.normaliser.state_dict().items()}
    return saved


def prior_of(model: AgentModel) -> AgentModel:
    """A copy that is not trained. It normalises observations by the statistics of the network, not by a copy of them."""
    prior = copy.deepcopy(model).requires_grad_(requires_grad=False)
    prior.normaliser = model.normaliser
    return prior
