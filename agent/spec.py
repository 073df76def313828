"""The specification of a network: the environment's spaces and the agent's settings (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.settings import AgentSettings
from oatmill.errors import UserError
from protocol.data.spaces import ObservationKind, Spaces

ENCODERS_OF: dict[ObservationKind, tuple[str, ...]] = {
    "vector": ("mlp",),
    "image": ("cnn", "nature"),
    "tokens": ("token_grid", "token_set", "token_attention"),
}
"""The encoders for each kind of observation; `auto` uses the first."""


@dataclass(frozen=True)
class AgentSpec:
    """Everything that determines the shapes of a network's parameters.

    Attributes:
        spaces: the environment's observation and action spaces.
        settings: the network's settings.
    """

    spaces: Spaces
    settings: AgentSettings

    def __post_init__(self) -> None:
        kind, asked = self.spaces.observation.kind, self.settings.encoder
        if asked != "auto" and not self.settings.own_encoder and asked not in ENCODERS_OF[kind]:
            raise UserError(
                f"agent.encoder={asked} does not support {kind} observations; use one of {', '.join(ENCODERS_OF[kind])}"
            )

    @property
    def encoder(self) -> str:
        """The encoder's name with `auto` resolved."""
        return ENCODERS_OF[self.spaces.observation.kind][0] if self.settings.encoder == "auto" else self.settings.encoder

    @property
    def core_state_size(self) -> int:
        """S, the length of the recurrent state: hidden and cell (LSTM), hidden (GRU), or 0 (no core)."""
        return {"none": 0, "gru": 1, "lstm": 2}[self.settings.core] * self.settings.core_size

    @property
    def latent_size(self) -> int:
        """H, the width of the latent state, the input of all heads and of the dynamics model."""
        if self.settings.core != "none":
            return self.settings.core_size
        return self.settings.hidden_sizes[-1] * (2 if self.settings.value_trunk == "separate" else 1)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return {"spaces": self.spaces.to_dict(), "settings": self.settings.model_dump(mode="json")}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> AgentSpec:
        """Build from the result of `to_dict`."""
        return AgentSpec(Spaces.from_dict(values["spaces"]), AgentSettings.model_validate(values["settings"]))
