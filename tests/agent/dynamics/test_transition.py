"""Several model steps in a row: the values and gradients of single steps, one after another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agent.dynamics.model_steps import ModelSteps
from agent.dynamics.transition import ScaleGradient, Transition
from agent.model import AgentModel
from tests.learner.worlds import make_action, make_spec

ACTIONS = {
    "one factor": make_action((3,)),
    "two factors": make_action((2, 3), factored=True),
    "numbers": make_action((), numbers=2),
}
ACTIONS["both"] = make_action((3,), numbers=2)


def one_by_one(transition: Transition, latent: Tensor, indexed: Tensor, scale: float) -> Tensor:
    latents = []
    for actions in indexed:
        latent = transition(ScaleGradient.apply(latent, scale), actions)  # type: ignore[no-untyped-call]
        latents.append(latent)
    return torch.stack(latents)


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("scale", [0.5, 0.0, 1.0])
def test_several_steps_are_single_steps_in_a_row(name: str, scale: float) -> None:
    torch.manual_seed(0)
    action = ACTIONS[name]
    transition = Transition(8, action).double()
    with torch.no_grad():
        for parameter in transition.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    columns = torch.stack([torch.randint(n, (4, 2, 5)) for n in action.sizes], -1) if action.sizes else None
    numbers = torch.rand(4, 2, 5, action.dimensions).double()
    indexed = columns if not action.dimensions else numbers if columns is None else torch.cat([columns.double(), numbers], -1)
    assert indexed is not None
    found = []
    for unroll in (transition.unroll, lambda *arguments: one_by_one(transition, *arguments)):
        latent = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
        latents = unroll(latent, indexed, scale)
        weights = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        found.append([latents, *torch.autograd.grad((weights * latents).sum(), [latent, *transition.parameters()])])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)


def test_the_written_out_gradients_are_the_differences_of_the_values() -> None:
    torch.manual_seed(3)
    shapes = (
        (2, 4),
        (3, 2, 4),
        (4, 4),
        (4,),
        (4, 4),
        (4,),
        (4,),
        (4,),
    )  # latent, pushes, W1, b1, W2, b2, norm's weight and bias
    arguments = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def steps(*given: Tensor) -> Tensor:
        found: Tensor = ModelSteps.apply(*given, 1e-5, 1.0)  # type: ignore[no-untyped-call]
        return found

    assert torch.autograd.gradcheck(steps, arguments)


def test_lower_precision_takes_pytorchs_own_operations() -> None:
    torch.manual_seed(0)
    transition = Transition(8, ACTIONS["one factor"])
    latent, indexed = torch.randn(2, 5, 8), torch.randint(3, (4, 2, 5, 1))
    with torch.autocast("cpu", torch.bfloat16):
        ours, expected = transition.unroll(latent, indexed, 0.5), one_by_one(transition, latent, indexed, 0.5)
    torch.testing.assert_close(ours, expected, atol=0, rtol=0)


def test_action_embeddings_have_the_standard_deviation_that_is_set() -> None:
    # 400 actions of a latent state of 16: by default 1 / sqrt(16). Numbers' weights are set the same way.
    torch.manual_seed(0)
    for std, expected in ((None, 0.25), (1.0, 1.0)):
        model = AgentModel(make_spec(sizes=(400,), hidden_sizes=(16,), action_embedding_std=std))
        assert model.transition.action.weight.std().item() == pytest.approx(expected, rel=0.05)
    numbers = AgentModel(make_spec(sizes=(), numbers=400, factored=True, hidden_sizes=(16,), action_embedding_std=1.0))
    assert numbers.transition.numbers.weight.std().item() == pytest.approx(1.0, rel=0.05)
