"""AdamW on one flat array: a network's parameters lie side by side in it, so an update takes as many calls for many as for one.

PyTorch's own optimiser and its clipping walk through the parameters one by one, which for a small network costs more than the
arithmetic; and making one imports the compiler, a second of every start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from learner.settings import OptimizerSettings
from oatmill.errors import UserError

ALIGNMENT = 16
"""Numbers: each parameter begins at a multiple of 64 bytes, as if it had memory of its own, which matrix products ask for."""
NORM_EPS = 1e-6
"""What `nn.utils.clip_grad_norm_` adds to the norm that it divides by, too."""


class Flat:
    """Parameters that lie side by side in one array; they become views of it and keep their numbers.

    Args:
        parameters: of one device, float32.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        odd = next((parameter for parameter in parameters if parameter.dtype != torch.float32), None)
        if odd is not None:
            raise UserError(f"the learner trains float32 parameters, got one of {odd.dtype}; trainer.autocast computes in less")
        self.parameters = list(parameters)
        self.shapes = [parameter.shape for parameter in parameters]
        self.sizes = [parameter.numel() for parameter in parameters]
        self.gaps = [-size % ALIGNMENT for size in self.sizes]
        device = parameters[0].device if parameters else None
        self.array = torch.zeros(sum(self.sizes) + sum(self.gaps), device=device)
        self.padding = [torch.zeros(gap, device=device) for gap in self.gaps]
        for parameter, view in zip(parameters, self.views(self.array), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view

    def views(self, array: Tensor) -> list[Tensor]:
        """Each parameter's part of an array like `array`, in its shape."""
        lengths = [length for pair in zip(self.sizes, self.gaps, strict=True) for length in pair]
        return [part.view(shape) for part, shape in zip(torch.split(array, lengths)[::2], self.shapes, strict=True)]

    def gradient(self) -> Tensor:
        """The parameters' gradients side by side; 0 where there is none."""
        parts = []
        for parameter, padding in zip(self.parameters, self.padding, strict=True):
            gradient = parameter.grad
            parts.append(torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten())
            if len(padding):
                parts.append(padding)
        return torch.cat(parts)


class FlatAdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with its gradient clipped to a norm.

    A parameter that the loss does not reach has a gradient of 0.

    Args:
        parameters: what is trained; from now on they are views of one array.
        settings: betas, eps, weight decay, and the learning rate to begin with.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> None:
        self.flat = Flat(parameters)
        self.settings = settings
        self.learning_rate = settings.learning_rate
        self.first, self.second = torch.zeros_like(self.flat.array), torch.zeros_like(self.flat.array)
        self.steps = torch.zeros((), device=self.flat.array.device)

    def zero_grad(self) -> None:
        """Forget all gradients; the next backward pass makes new ones."""
        for parameter in self.flat.parameters:
            parameter.grad = None

    def step(self, gradient: Tensor, norm: float, max_norm: float) -> None:
        """One update.

        Args:
            gradient: what `self.flat.gradient()` gave; is cut to `max_norm` in place.
            norm: its norm.
            max_norm: above this, the gradient is made shorter.
        """
        if norm + NORM_EPS > max_norm:
            gradient.mul_(max_norm / (norm + NORM_EPS))
        self.steps.add_(1)
        torch._fused_adamw_(
            [self.flat.array],
            [gradient],
            [self.first],
            [self.second],
            [],
            [self.steps],
            lr=self.learning_rate,
            beta1=self.settings.beta1,
            beta2=self.settings.beta2,
            weight_decay=self.settings.weight_decay,
            eps=self.settings.eps,
            amsgrad=False,
            maximize=False,
        )

    def state(self) -> dict[int, dict[str, Tensor]]:
        """The state by the parameters' positions, as `torch.optim.AdamW` names it; nothing before the first step."""
        if not bool(self.steps):
            return {}
        moments = zip(self.flat.views(self.first), self.flat.views(self.second), strict=True)
        return {
            position: {"step": self.steps, "exp_avg": first, "exp_avg_sq": second}
            for position, (first, second) in enumerate(moments)
        }

    @torch.no_grad()
    def load(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Go on from what `state` gave."""
        for array, name in ((self.first, "exp_avg"), (self.second, "exp_avg_sq")):
            array.zero_()
            for position, view in enumerate(self.flat.views(array)):
                if state:
                    view.copy_(state[position][name])
        self.steps.fill_(float(state[0]["step"]) if state else 0.0)
