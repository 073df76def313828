"""Recurrent cores: the unroll is the steps, resets where episodes end, and states from before the reset."""

from __future__ import annotations

import pytest
import torch

from agent.core import Core


def world(kind: str) -> tuple[Core, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    core = Core(kind, 4, 3).double()
    encoded = torch.randn(5, 7, 4, dtype=torch.float64)
    state = torch.randn(5, 3 if kind == "gru" else 6, dtype=torch.float64)
    return core, encoded, state, torch.rand(5, 7) < 0.3


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("extra", [0, 1])
def test_the_unroll_is_step_by_step_with_a_new_start_after_each_end(kind: str, extra: int) -> None:
    core, encoded, state, ends = world(kind)
    encoded = torch.cat([encoded, encoded[:, :extra]], 1)
    latents, states = core.unroll(encoded, state, ends)
    assert latents.shape == (5, 7 + extra, 3)
    for b in range(5):
        now = state[b : b + 1]
        for t in range(7 + extra):
            latent, now = core.step(encoded[b, t : t + 1], now)
            torch.testing.assert_close(latents[b, t], latent[0])
            torch.testing.assert_close(states[b, t], now[0], msg="the state from before the reset")
            if t < 7 and ends[b, t]:
                now = torch.zeros_like(now)


def test_an_lstms_state_is_its_hidden_and_its_cell_and_the_latent_is_the_hidden() -> None:
    core, encoded, state, _ = world("lstm")
    latent, after = core.step(encoded[:, 0], state)
    hidden, cell = core.cell(encoded[:, 0], (state[:, :3], state[:, 3:]))
    assert torch.equal(after, torch.cat([hidden, cell], -1))
    assert torch.equal(latent, hidden)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("poison", [float("nan"), 1e9])
def test_nothing_of_an_ended_episode_reaches_the_next_one(kind: str, poison: float) -> None:
    core, encoded, state, ends = world(kind)
    ends[:, 2] = True
    clean = core.unroll(encoded, state, ends)[0][:, 3:]
    encoded[:, :3] = poison
    assert torch.equal(core.unroll(encoded, torch.full_like(state, poison), ends)[0][:, 3:], clean)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gradients_flow_back_through_time_and_stop_at_an_end(kind: str) -> None:
    core, encoded, state, ends = world(kind)
    ends[:], ends[:, 2] = False, True
    encoded.requires_grad_()
    torch.autograd.backward(core.unroll(encoded, state, ends)[0][:, 5].sum())
    assert encoded.grad is not None
    reached = encoded.grad.abs().sum((0, 2)) > 0
    assert reached.tolist() == [False, False, False, True, True, True, False]
