"""The specification of a network: the environment's spaces and the agent's settings (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agent.settings import AgentSettings
from oatmill.errors import SettingsError, UserError
from oatmill.settings.complaints import describe_error
from oatmill.settings.flat import AUTO_ENCODERS
from protocol.data.spaces import ObservationKind, ObservationSpace, Spaces

ENCODERS_OF: dict[ObservationKind, tuple[str, ...]] = {
    "vector": ("mlp",),
    "image": ("cnn", "nature", "small_cnn"),
    "tokens": ("token_grid", "token_set", "token_attention"),
}
"""The encoders for each kind of observation; `auto` uses the first."""
ON_CPU: dict[ObservationKind, str] = {"image": "small_cnn"}
"""What `auto_cpu` uses instead of what `auto` does."""
JOINED = "none"
"""The encoder of a key that goes to the joining layers as it is: what `auto` takes for a vector among several keys."""


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
        settings, seen = self.settings, self.seen
        if settings.own_encoder and settings.encoders:
            raise UserError(f"agent.encoder={settings.encoder} reads all keys; leave agent.encoders empty")
        unknown = sorted(settings.encoders.keys() - seen.keys())
        if unknown:
            keys = ", ".join(seen) if self.several else "none, for the observation is no Dict of several keys"
            raise UserError(f"agent.encoders.{unknown[0]} names no key of the observation; there are: {keys}")
        if self.several and settings.encoder not in AUTO_ENCODERS and not settings.own_encoder:
            raise UserError(
                f"agent.encoder={settings.encoder} reads one observation, and this is a Dict of {', '.join(seen)}; "
                f"set agent.encoders.{next(iter(seen))}={settings.encoder} or another key's"
            )
        for path in seen:
            self._check(path)
        if settings.normalize_observations and not self.normalised:
            kinds = ", ".join(sorted({part.kind for part in seen.values()}))
            raise UserError(
                f"agent.normalize_observations=true normalises vectors, and this environment's observations are {kinds}; "
                "set it to false"
            )

    def _check(self, path: str) -> None:
        kind, asked = self.seen[path].kind, self._asked(path)
        known = (*ENCODERS_OF[kind], JOINED) if self.several and kind == "vector" else ENCODERS_OF[kind]
        if asked not in AUTO_ENCODERS and not self.settings.own_encoder and asked not in known:
            setting = f"agent.encoders.{path}" if self.several else "agent.encoder"
            raise UserError(f"{setting}={asked} does not support {kind} observations; use one of {', '.join(known)}")

    def _asked(self, path: str) -> str:
        auto = self.settings.encoder if self.settings.encoder in AUTO_ENCODERS else "auto"
        return self.settings.encoders.get(path, auto) if self.several else self.settings.encoder

    @property
    def seen(self) -> dict[str, ObservationSpace]:
        """What the encoder reads, by path: all keys but the mask; a plain observation has the path ""."""
        return {path: part for path, part in self.spaces.observation.parts if part.kind != "mask"}

    @property
    def normalised(self) -> dict[str, int]:
        """The lengths of the vectors that are normalised, by path; empty unless the settings ask for it."""
        if not self.settings.normalize_observations:
            return {}
        return {path: part.shape[0] for path, part in self.seen.items() if part.kind == "vector"}

    @property
    def several(self) -> bool:
        """Whether the encoder reads several keys."""
        return len(self.seen) > 1

    def encoder_of(self, path: str) -> str:
        """The name of one key's encoder with `auto` resolved."""
        kind, asked = self.seen[path].kind, self._asked(path)
        if asked not in AUTO_ENCODERS:
            return asked
        if asked == "auto_cpu" and kind in ON_CPU:
            return ON_CPU[kind]
        return JOINED if self.several and kind == "vector" else ENCODERS_OF[kind][0]

    @property
    def encoder(self) -> str:
        """The encoder's name with `auto` resolved; `dict` for one a key."""
        if self.settings.own_encoder:
            return self.settings.encoder
        return "dict" if self.several else self.encoder_of(next(iter(self.seen)))

    @property
    def depends_on_device(self) -> bool:
        """Whether `auto` and `auto_cpu` are different networks for these observations."""
        if self.settings.encoder not in AUTO_ENCODERS:
            return False
        one, other = (self.with_encoder(auto) for auto in AUTO_ENCODERS)
        return any(one.encoder_of(path) != other.encoder_of(path) for path in self.seen)

    def with_encoder(self, encoder: str) -> AgentSpec:
        """The same with another `agent.encoder`."""
        return AgentSpec(self.spaces, self.settings.model_copy(update={"encoder": encoder}))

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
        """Build from the result of `to_dict`.

        Raises:
            SettingsError: if the settings are not those of this version.
        """
        try:
            settings = AgentSettings.model_validate(values["settings"])
        except ValidationError as error:
            raise SettingsError(describe_error(AgentSettings, error, "agent")) from None
        return AgentSpec(Spaces.from_dict(values["spaces"]), settings)
