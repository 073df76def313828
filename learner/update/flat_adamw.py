"""AdamW on one flat array that holds all of a network's parameters, so that an update is one call.

PyTorch's optimiser class and its gradient clipping process the parameters one by one, which takes
longer than the arithmetic of a small network. Creating the class also imports the compiler, which
takes a second at every start; the function used here does not import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from learner.settings import OptimizerSettings
from oatmill.errors import UserError

ALIGNMENT = 16
"""In elements. Each parameter starts at a multiple of 64 bytes, which makes matrix products fast."""
NORM_EPS = 1e-6
"""Added to the norm before the division, as in `nn.utils.clip_grad_norm_`."""


class Flat:
    """Moves parameters into one array. They become views of it and keep their values.

    Args:
        parameters: float32 parameters on one device.

    Raises:
        UserError: if a parameter is not float32.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        odd = next((parameter for parameter in parameters if parameter.dtype != torch.float32), None)
        if odd is not None:
            raise UserError(
                f"expected float32 parameters, got one of {odd.dtype}; for bfloat16 use trainer.precision=bfloat16 instead"
            )
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
        """Views of each parameter's part of an array like `array`, in the parameter's shape."""
        lengths = [length for pair in zip(self.sizes, self.gaps, strict=True) for length in pair]
        return [part.view(shape) for part, shape in zip(torch.split(array, lengths)[::2], self.shapes, strict=True)]

    def gradient(self, number: int | None = None) -> Tensor:
        """The gradients of the first parameters, or of all, in one array; 0 for parameters without a gradient."""
        parts = []
        for parameter, padding in zip(self.parameters[:number], self.padding[:number], strict=True):
            gradient = parameter.grad
            parts.append(torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten())
            if len(padding):
                parts.append(padding)
        return torch.cat(parts)


class FlatAdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with gradient clipping by norm.

    Parameters that no loss uses have a gradient of 0.

    Args:
        parameters: the trained parameters; they become views of one array.
        settings: the betas, eps, weight decay and initial learning rate.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> None:
        self.flat = Flat(parameters)
        self.settings = settings
        self.learning_rate = settings.learning_rate
        self.first, self.second = torch.zeros_like(self.flat.array), torch.zeros_like(self.flat.array)
        self.steps = torch.zeros((), device=self.flat.array.device)

    def zero_grad(self) -> None:
        """Drop all gradients; the next backward pass creates new ones."""
        for parameter in self.flat.parameters:
            parameter.grad = None

    def step(self, gradient: Tensor, norm: float, max_norm: float) -> None:
        """Apply one update to the parameters that have a gradient; the others and their moments stay as they are.

        Args:
            gradient: the result of `self.flat.gradient(...)`; clipped to `max_norm` in place.
            norm: the gradient's norm.
            max_norm: the largest norm that is not clipped.
        """
        if norm + NORM_EPS > max_norm:
            gradient.mul_(max_norm / (norm + NORM_EPS))
        length = len(gradient)
        adamw(
            [self.flat.array[:length]],
            [gradient],
            [self.first[:length]],
            [self.second[:length]],
            [],
            [self.steps],
            fused=True,
            lr=self.learning_rate,
            beta1=self.settings.beta1,
            beta2=self.settings.beta2,
            weight_decay=self.settings.weight_decay,
            eps=self.settings.eps,
            amsgrad=False,
            maximize=False,
        )

    def state(self) -> dict[int, dict[str, Tensor]]:
        """The state by parameter position, named as in `torch.optim.AdamW`; empty before any step."""
        if not bool(self.steps):
            return {}
        moments = zip(self.flat.views(self.first), self.flat.views(self.second), strict=True)
        return {
            position: {"step": self.steps, "exp_avg": first, "exp_avg_sq": second}
            for position, (first, second) in enumerate(moments)
        }

    @torch.no_grad()
    def load(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Restore what `state` returned."""
        for array, name in ((self.first, "exp_avg"), (self.second, "exp_avg_sq")):
            array.zero_()
            for position, view in enumerate(self.flat.views(array)):
                if state:
                    view.copy_(state[position][name])
        self.steps.fill_(float(state[0]["step"]) if state else 0.0)
