"""The layer that gives a policy's row: logits alone, or logits, means and log stds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agent.heads import PartHead, orthogonal_init
from agent.settings import AgentSettings
from protocol.data.spaces import ActionSpace

POLICY_GAIN = 0.01  # a near-uniform first policy


class InwardClamp(torch.autograd.Function):
    """Clamp to bounds. Outside, only gradients that lead back inside flow, so that nothing is stuck there."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, low: float, high: float) -> Tensor:
        """The clamped numbers."""
        ctx.save_for_backward(x)
        ctx.bounds = low, high  # type: ignore[attr-defined]
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """A step goes against the gradient: above the bounds a positive one leads back, below them a negative one."""
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        low, high = ctx.bounds  # type: ignore[attr-defined]
        leads_out = ((x > high) & (gradients[0] < 0)) | ((x < low) & (gradients[0] > 0))
        return gradients[0].masked_fill(leads_out, 0.0), None, None


class GaussianHead(PartHead):
    """Logits of the choices, and means and log stds of the numbers, side by side.

    Args:
        first: the first column of the latent state that is read.
        last: the column behind the last one.
        action: the action space.
        settings: where the log stds come from, what they start at, and their bounds.
    """

    def __init__(self, first: int, last: int, action: ActionSpace, settings: AgentSettings) -> None:
        of_state = settings.log_std == "state"
        super().__init__(first, last, action.num_parameters if of_state else action.num_logits + action.dimensions)
        start = torch.full((action.dimensions,), settings.log_std_init)
        self.log_std = None if of_state else nn.Parameter(start)
        self.log_std_init = settings.log_std_init
        self.bounds = settings.log_std_min, settings.log_std_max
        self.dimensions = action.dimensions

    def forward(self, latent: Tensor) -> Tensor:
        """`[..., H]` to `[..., num_parameters]`."""
        read = super().forward(latent)
        if self.log_std is None:
            kept, log_std = read[..., : -self.dimensions], read[..., -self.dimensions :]
        else:
            kept, log_std = read, self.log_std.expand(*read.shape[:-1], -1)
        if not torch.is_grad_enabled():  # a TorchScript file cannot hold a function of Python
            return torch.cat([kept, log_std.clamp(*self.bounds)], -1)
        clamped: Tensor = InwardClamp.apply(log_std, *self.bounds)  # type: ignore[no-untyped-call]
        return torch.cat([kept, clamped], -1)


def make_policy_head(first: int, last: int, width: int, action: ActionSpace, settings: AgentSettings) -> nn.Linear:
    """The policy head that reads the columns `first` to `last` of a latent state `width` wide."""
    if action.dimensions:
        return GaussianHead(first, last, action, settings)
    return nn.Linear(width, action.num_logits) if (first, last) == (0, width) else PartHead(first, last, action.num_logits)


def start_policy(head: nn.Linear) -> None:
    """Set a policy head to a near-uniform policy: logits and means near 0, log stds near where they start."""
    orthogonal_init(head, POLICY_GAIN)
    if isinstance(head, GaussianHead) and head.log_std is None:
        nn.init.constant_(head.bias[-head.dimensions :], head.log_std_init)
