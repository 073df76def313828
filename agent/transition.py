"""The dynamics model's step from a latent state and an action to the next latent state, and several of them in a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from protocol.data.spaces import ActionSpace


class ScaleGradient(torch.autograd.Function):
    """The identity in the forward pass; multiplies the gradient by a factor in the backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, scale: float) -> Tensor:
        """Return the input unchanged."""
        ctx.scale = scale  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        """Multiply the gradient by the scale."""
        return gradients[0] * ctx.scale, None  # type: ignore[attr-defined]


class ModelSteps(torch.autograd.Function):
    """K model steps in one autograd node, with its backward pass written out.

    It computes what K calls of `Transition.forward` compute. Autograd would make a dozen nodes for each step and
    compute each weight's gradient K times; here it is one matrix product over all steps.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 -- autograd passes arguments by position
        ctx: Any,
        latent_NH: Tensor,
        push_KNH: Tensor,
        state_weight: Tensor,
        state_bias: Tensor,
        output_weight: Tensor,
        output_bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        eps: float,
        scale: float,
    ) -> Tensor:
        """The latents after 1..K steps, `[K, N, H]`."""
        hidden, summed, means, deviations, latents = [], [], [], [], [latent_NH]
        for push_NH in push_KNH:
            latent_NH = latents[-1]
            hidden.append(linear(latent_NH, state_weight, state_bias).add_(push_NH).relu_())
            summed.append(linear(hidden[-1], output_weight, output_bias).add_(latent_NH))
            advanced, mean, deviation = torch.native_layer_norm(summed[-1], latent_NH.shape[-1:], norm_weight, norm_bias, eps)
            latents.append(advanced)
            means.append(mean)
            deviations.append(deviation)
        latents_KNH = torch.stack(latents)
        weights = (state_weight, output_weight, norm_weight, norm_bias)
        ctx.save_for_backward(latents_KNH[:-1], torch.stack(hidden), *weights, *summed, *means, *deviations)
        ctx.scale = scale
        return latents_KNH[1:]

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in the order of `forward`'s arguments."""
        latents_KNH, hidden_KNH, state_weight, output_weight, norm_weight, norm_bias, *steps = ctx.saved_tensors
        (gradient_KNH,) = gradients
        count, shape = len(hidden_KNH), latents_KNH.shape[-1:]
        summed, means, deviations = steps[:count], steps[count : 2 * count], steps[2 * count :]
        from_summed_KNH, from_push_KNH = torch.empty_like(hidden_KNH), torch.empty_like(hidden_KNH)
        norms = []
        carried_NH: Tensor | None = None
        for k in reversed(range(count)):
            gradient_NH = gradient_KNH[k] if carried_NH is None else carried_NH.add_(gradient_KNH[k])
            from_summed_NH, *of_norm = torch.ops.aten.native_layer_norm_backward(
                gradient_NH, summed[k], shape, means[k], deviations[k], norm_weight, norm_bias, [True, True, True]
            )
            norms.append(of_norm)
            from_hidden_NH = from_summed_NH @ output_weight
            from_push_NH = torch.ops.aten.threshold_backward(from_hidden_NH, hidden_KNH[k], 0)
            carried_NH = torch.addmm(from_summed_NH, from_push_NH, state_weight).mul_(ctx.scale)
            from_summed_KNH[k], from_push_KNH[k] = from_summed_NH, from_push_NH
        from_summed, from_push = from_summed_KNH.flatten(0, 1), from_push_KNH.flatten(0, 1)
        of_weight, of_bias = (torch.stack(parts).sum(0) for parts in zip(*norms, strict=True))
        of_state, of_output = from_push.t() @ latents_KNH.flatten(0, 1), from_summed.t() @ hidden_KNH.flatten(0, 1)
        return (
            carried_NH,
            from_push_KNH,
            of_state,
            from_push.sum(0),
            of_output,
            from_summed.sum(0),
            of_weight,
            of_bias,
            None,
            None,
        )


class Transition(nn.Module):
    """h' = LayerNorm(h + W2 relu(W1 h + E[a] + A u + b)), with the embedding E[a] of choices a, and numbers u.

    Args:
        latent_size: H.
        action: the action space.
        action_std: the standard deviation of the initial embeddings; None for 1 / sqrt(H).
    """

    def __init__(self, latent_size: int, action: ActionSpace, action_std: float | None = None) -> None:
        super().__init__()
        std = latent_size**-0.5 if action_std is None else action_std
        self.state = nn.Linear(latent_size, latent_size)
        if action.sizes:
            self.action = nn.Embedding(action.num_logits, latent_size)
            nn.init.normal_(self.action.weight, std=std)
        if action.dimensions:
            self.numbers = nn.Linear(action.dimensions, latent_size, bias=False)
            nn.init.normal_(self.numbers.weight, std=std)
        self.factors, self.dimensions = len(action.sizes), action.dimensions
        self.output = nn.Linear(latent_size, latent_size)
        self.norm = nn.LayerNorm(latent_size)

    def forward(self, latent: Tensor, indexed: Tensor) -> Tensor:
        """Next latents `[..., H]` from latents `[..., H]` and actions in the format of `Policies.indexed`."""
        return self._advance(latent, self.state(latent) + self.push(indexed))

    def unroll(self, latent: Tensor, indexed: Tensor, gradient_scale: float) -> Tensor:
        """Take K steps from each latent.

        Args:
            latent: `[B, T, H]`.
            indexed: the actions of each step in the format of `Policies.indexed`, with K as the first axis.
            gradient_scale: the factor on gradients at each step back.

        Returns:
            The latents after 1..K steps, `[K, B, T, H]`.
        """
        # In lower precision, and for the compiler, each step consists of PyTorch's own operations.
        if not torch.is_autocast_enabled(latent.device.type) and not torch.compiler.is_compiling():
            push_KNH = self.push(indexed).flatten(1, 2)
            state, output, norm = self.state, self.output, self.norm
            weights = (state.weight, state.bias, output.weight, output.bias, norm.weight, norm.bias)
            steps: Tensor = ModelSteps.apply(latent.flatten(0, 1), push_KNH, *weights, norm.eps, gradient_scale)  # type: ignore[no-untyped-call]
            return steps.unflatten(1, latent.shape[:2])  # type: ignore[no-any-return, no-untyped-call]
        latents = []
        for actions in indexed:
            latent = self(ScaleGradient.apply(latent, gradient_scale), actions)  # type: ignore[no-untyped-call]
            latents.append(latent)
        return torch.stack(latents)

    def push(self, indexed: Tensor) -> Tensor:
        """The actions' part of the hidden layer, `[..., H]`."""
        pushed: Tensor
        if not self.dimensions:
            pushed = self.action(indexed.squeeze(-1)) if self.factors == 1 else self.action(indexed).sum(-2)
        elif not self.factors:
            pushed = self.numbers(indexed)
        else:
            pushed = self.action(indexed[..., : self.factors].long()).sum(-2) + self.numbers(indexed[..., self.factors :])
        return pushed

    def every_action(self, latent: Tensor, taken_columns: Tensor | None) -> Tensor:
        """The next latents for every action, `[..., A, H]`; the state's part is computed once.

        Args:
            latent: `[..., H]`.
            taken_columns: columns of the taken actions `[..., factors]`. Each of the A choices replaces
                its own factor; the other factors stay as taken. None for actions with one factor.
        """
        pushed = self.state(latent).unsqueeze(-2) + self.action.weight
        if taken_columns is not None:
            pushed = pushed + self._other_factors(taken_columns)
        return self._advance(latent.unsqueeze(-2), pushed)

    def _other_factors(self, taken_columns: Tensor) -> Tensor:
        """For every choice, the sum of the other factors' embeddings: `[..., A, H]`."""
        pushes = self.action(taken_columns)
        others: Tensor = pushes.sum(-2, keepdim=True) - pushes
        return others.repeat_interleave(self.factor_sizes, -2, output_size=self.action.num_embeddings)

    factor_sizes: Tensor

    def _advance(self, latent: Tensor, pushed: Tensor) -> Tensor:
        advanced: Tensor = self.norm(latent + self.output(torch.relu(pushed)))
        return advanced
