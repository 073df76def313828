"""The specification of a network: the environment's spaces and the agent's settings (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.settings import AgentSettings
from oatmill.errors import UserError
from protocol.data.spaces import ObservationKind, Spaces

ENCODERS_OF: dict[ObservationKind, tuple[str, ...]] = {
    "vector": ("mlp",),
    "image": ("cnn", "nature", "small_cnn"),
    "tokens": ("token_grid", "token_set", "token_attention"),
}
"""The encoders for each kind of observation; `auto` uses the first."""
ON_CPU: dict[ObservationKind, str] = {"image": "small_cnn"}
"""What `auto_cpu` uses instead of what `auto` does."""


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
        if not asked.startswith("auto") and not self.settings.own_encoder and asked not in ENCODERS_OF[kind]:
            raise UserError(
                f"agent.encoder={asked} does not support {kind} observations; use one of {', '.join(ENCODERS_OF[kind])}"
            )
        if self.settings.normalise_observations and kind != "vector":
            raise UserError(
                f"agent.normalise_observations=true normalises vectors, and this environment's observations are {kind}; "
                "set it to false"
            )

    @property
    def encoder(self) -> str:
        """The encoder's name with `auto` resolved."""
        kind, asked = self.spaces.observation.kind, self.settings.encoder
        if not asked.startswith("auto") or self.settings.own_encoder:
            return asked
        return ON_CPU.get(kind, ENCODERS_OF[kind][0]) if asked == "auto_cpu" else ENCODERS_OF[kind][0]

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
