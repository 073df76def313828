"""Recurrent cores. The state of one row is a flat vector, so that trajectories can store it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Core(nn.Module):
    """An LSTM or GRU cell, stepped one observation at a time; its output is the latent state.

    Args:
        kind: `lstm` or `gru`.
        input_size: width of the encoder's output.
        size: width of the core.
    """

    def __init__(self, kind: str, input_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.cell = nn.LSTMCell(input_size, size) if kind == "lstm" else nn.GRUCell(input_size, size)

    def step(self, encoded_NE: Tensor, state_NS: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one step; returns the latents `[N, H]` and the next states `[N, S]`."""
        if isinstance(self.cell, nn.LSTMCell):
            hidden, cell = self.cell(encoded_NE, (state_NS[:, : self.size], state_NS[:, self.size :]))
            return hidden, torch.cat([hidden, cell], -1)
        hidden = self.cell(encoded_NE, state_NS)
        return hidden, hidden

    def unroll(self, encoded_BTE: Tensor, state_BS: Tensor, ends_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Step along axis 1 and reset the state after each end of an episode.

        Args:
            encoded_BTE: encoder outputs of T or T + 1 steps.
            state_BS: the state before the first step.
            ends_BT: whether the episode ended at each of the T steps.

        Returns:
            Latents `[B, T, H]`, and the states `[B, T, S]` after each step, before any reset. The final
            observation of an episode is evaluated with that state.
        """
        latents, states = [], []
        state = state_BS
        for t in range(encoded_BTE.shape[1]):
            latent, state = self.step(encoded_BTE[:, t], state)
            latents.append(latent)
            states.append(state)
            if t < ends_BT.shape[1]:
                state = state.masked_fill(ends_BT[:, t : t + 1], 0.0)
        return torch.stack(latents, 1), torch.stack(states, 1)
