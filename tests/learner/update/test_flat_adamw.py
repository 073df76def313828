"""The optimiser on one flat array: PyTorch's AdamW and its clipping, parameter by parameter, and a state that comes back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learner.settings import OptimizerSettings
from learner.update.flat_adamw import ALIGNMENT, Flat, FlatAdamW
from oatmill.errors import UserError

SHAPES = ((3, 5), (16,), (), (2, 2, 9), (1,))
SETTINGS = OptimizerSettings(learning_rate=0.02, eps=1e-6, weight_decay=0.1, beta1=0.8, beta2=0.95)


def made(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def gradients(seed: int, scale: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def step(optimizer: FlatAdamW, given: list[Tensor], max_norm: float) -> None:
    optimizer.zero_grad()
    for parameter, gradient in zip(optimizer.flat.parameters, given, strict=True):
        parameter.grad = gradient
    gradient = optimizer.flat.gradient()
    optimizer.step(gradient, torch.linalg.vector_norm(gradient).item(), max_norm)


@pytest.mark.parametrize("scale", [1e-3, 5.0])
def test_updates_are_those_of_pytorch(scale: float) -> None:
    # A norm of 1 is far above what the small gradients have, and far below what the large ones have.
    ours, theirs = made(), made()
    flat = FlatAdamW(ours, SETTINGS)
    reference = torch.optim.AdamW(theirs, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    for update in range(5):
        flat.learning_rate = reference.param_groups[0]["lr"] = 0.02 / (update + 1)
        for parameter, gradient in zip(theirs, gradients(update, scale), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(theirs, 1.0)
        reference.step()
        step(flat, gradients(update, scale), 1.0)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
    for position, state in flat.state().items():
        expected = reference.state[theirs[position]]
        assert state.keys() == expected.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)


def test_updates_are_the_equation_in_numpy() -> None:
    # Loshchilov and Hutter 2019, algorithm 2, in float64.
    parameters = made()
    optimizer = FlatAdamW(parameters, SETTINGS)
    value = np.concatenate([parameter.detach().numpy().ravel() for parameter in parameters]).astype(np.float64)
    first, second = np.zeros_like(value), np.zeros_like(value)
    for t in range(1, 5):
        given = gradients(t, 0.01)
        g = np.concatenate([gradient.numpy().ravel() for gradient in given]).astype(np.float64)
        first, second = 0.8 * first + 0.2 * g, 0.95 * second + 0.05 * g**2
        ratio = (first / (1 - 0.8**t)) / (np.sqrt(second / (1 - 0.95**t)) + 1e-6)
        value = value - 0.02 * 0.1 * value - 0.02 * ratio
        step(optimizer, given, 100.0)
    ours = np.concatenate([parameter.detach().numpy().ravel() for parameter in parameters])
    np.testing.assert_allclose(ours, value, rtol=1e-5, atol=1e-6)


def test_the_public_function_gives_the_bits_of_the_kernel_that_it_calls() -> None:
    ours, kernel = FlatAdamW(made(), SETTINGS), FlatAdamW(made(), SETTINGS)
    for update in range(4):
        step(ours, gradients(update, 1.0), 1.0)
        gradient = torch.cat(
            [torch.nn.functional.pad(g.flatten(), (0, -g.numel() % ALIGNMENT)) for g in gradients(update, 1.0)]
        )
        gradient.mul_(1.0 / (torch.linalg.vector_norm(gradient).item() + 1e-6))
        kernel.steps.add_(1)
        torch._fused_adamw_(
            [kernel.flat.array],
            [gradient],
            [kernel.first],
            [kernel.second],
            [],
            [kernel.steps],
            lr=0.02,
            beta1=0.8,
            beta2=0.95,
            weight_decay=0.1,
            eps=1e-6,
            amsgrad=False,
            maximize=False,
        )
    np.testing.assert_array_equal(ours.flat.array.detach().numpy(), kernel.flat.array.detach().numpy())


def test_parameters_keep_their_numbers_and_begin_at_aligned_places() -> None:
    parameters, before = made(), made()
    flat = Flat(parameters)
    for own, other in zip(parameters, before, strict=True):
        assert torch.equal(own, other)
    starts = [parameter.storage_offset() for parameter in parameters]
    assert all(start % ALIGNMENT == 0 for start in starts)
    assert all(
        start + parameter.numel() <= after for parameter, (start, after) in zip(parameters, pairwise(starts), strict=False)
    )
    flat.array.fill_(7)
    assert all((parameter == 7).all() for parameter in parameters)


def test_what_has_no_gradient_counts_as_0() -> None:
    flat = Flat(parameters := made())
    parameters[1].grad = torch.ones(16)
    views = flat.views(flat.gradient())
    assert [float(view.sum()) for view in views] == [0, 16, 0, 0, 0]


def test_the_gaps_between_parameters_stay_0() -> None:
    optimizer = FlatAdamW(made(), SETTINGS)
    for update in range(3):
        step(optimizer, gradients(update, 1.0), 1.0)
    inside = torch.zeros_like(optimizer.flat.array)
    for view in optimizer.flat.views(inside):
        view.fill_(1)
    for array in (optimizer.flat.array, optimizer.first, optimizer.second):
        assert (array[inside == 0] == 0).all()
        assert (array[inside == 1] != 0).all()


def test_a_state_goes_on_where_it_was_to_the_bit() -> None:
    first = FlatAdamW(made(), SETTINGS)
    step(first, gradients(0, 1.0), 1.0)
    second = FlatAdamW(made(seed=9), SETTINGS)
    step(second, gradients(5, 3.0), 1.0)
    second.flat.array.copy_(first.flat.array)
    second.load({position: {n: value.clone() for n, value in state.items()} for position, state in first.state().items()})
    for optimizer in (first, second):
        step(optimizer, gradients(1, 1.0), 1.0)
    np.testing.assert_array_equal(first.flat.array.numpy(), second.flat.array.numpy())


def test_before_the_first_step_there_is_no_state_and_loading_none_begins_anew() -> None:
    optimizer = FlatAdamW(made(), SETTINGS)
    assert optimizer.state() == {}
    step(optimizer, gradients(0, 1.0), 1.0)
    optimizer.load({})
    assert optimizer.state() == {}
    assert not optimizer.first.any()
    assert not optimizer.second.any()


def test_parameters_that_are_not_float32_raise_an_error() -> None:
    with pytest.raises(UserError, match=r"float32 parameters, got one of torch\.float64"):
        Flat([nn.Parameter(torch.zeros(3, dtype=torch.float64))])
