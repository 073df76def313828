"""Example of your own network: dense layers with normalisation and skip connections.

oatmill train cartpole agent.encoder=examples.skip_network:make
"""

from __future__ import annotations

from torch import Tensor, nn

from agent.spec import AgentSpec


class SkipBlock(nn.Module):
    """x + W relu(LayerNorm(x)), starting as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = nn.Linear(width, width)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        out: Tensor = x + self.layer(self.norm(x).relu())
        return out


class SkipEncoder(nn.Module):
    """An embedding of the flattened observation, and a block per further entry of `agent.hidden_sizes`."""

    def __init__(self, inputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.blocks = nn.Sequential(*(SkipBlock(width) for _ in range(blocks)))

    def forward(self, observations: Tensor) -> Tensor:
        """`[N, ...]` in the environment's own dtype to `[N, width]` float32."""
        encoded: Tensor = self.blocks(self.embed(observations.flatten(1).float()))
        return encoded


def make(spec: AgentSpec) -> nn.Module:
    """What `agent.encoder` names: an encoder for what this spec's agent sees."""
    observation, sizes = spec.spaces.observation, spec.settings.hidden_sizes
    inputs = 1
    for size in observation.shape:
        inputs *= size
    return SkipEncoder(inputs, width=sizes[-1], blocks=len(sizes) - 1)
