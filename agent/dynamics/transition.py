"""The step from a latent state and an action to the next latent state, and several of them in a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agent.dynamics.model_steps import ModelSteps
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
