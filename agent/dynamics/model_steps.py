"""Several steps of the dynamics model with a backward pass that is written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


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
    @torch.autograd.function.once_differentiable
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
