"""Settings of the network (no torch)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from oatmill.settings.base import Settings
from protocol.data.limits import LOG_STD_BOUNDS

ENCODERS = ("auto", "auto_cpu", "mlp", "cnn", "nature", "small_cnn", "token_grid", "token_set", "token_attention")
OWN = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


class AgentSettings(Settings):
    """The network that actors run and the learner trains."""

    earlier_names: ClassVar[Mapping[str, str]] = {"normalise_observations": "normalize_observations"}

    encoder: str = "auto"
    """The network's encoder. `auto` uses mlp for vectors, token_grid for tokens, and for images cnn
    (IMPALA's residual network). If the learner trains images on a CPU, `auto` becomes `auto_cpu`, which
    uses small_cnn for them. Others: nature (images; three convolutions, a
    sixth of the computation of cnn), small_cnn (images; two convolutions, a third of that of nature),
    token_set, token_attention, and your own as `module:make` (docs/tutorials/your-own-network.md)."""
    encoders: dict[str, str] = Field(default_factory=dict)
    """Encoders of the keys of a Dict or Tuple observation, such as `agent.encoders.camera=nature`. A
    nested key is `outer/inner`, an entry of a Tuple its number. Other keys use the encoder that
    `agent.encoder=auto` uses for their kind, except vectors: they use `none`, which feeds them directly
    into the layers that join all keys. `mlp` gives a vector a dense layer of its own first."""
    hidden_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(128, 128), min_length=1)
    """Widths of the encoder's dense layers. The last one is the width of the latent state."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Activation function of the dense layers."""
    normalize_observations: bool = False
    """Subtract the running mean of each number of an observation and divide by its running standard deviation. The
    statistics are part of the network: they are saved and sent to the actors with its weights, and `oatmill eval` and
    `oatmill.load` use them, so a policy takes the environment's raw observations. Only for vectors."""
    observation_clip: float = Field(default=10.0, gt=0)
    """Normalised observations are clipped to [-observation_clip, observation_clip]. Used when `normalize_observations` is
    true."""
    value_trunk: Literal["shared", "separate"] = "shared"
    """`separate` gives the value head an encoder of its own, so that policy and value do not share
    features."""
    token_width: int = Field(default=64, ge=4)
    """Width of one token's embedding in token_set and token_attention."""
    core: Literal["none", "lstm", "gru"] = "none"
    """Recurrent core between encoder and heads."""
    core_size: int = Field(default=128, ge=1)
    """Width of the recurrent core; with a core this is the width of the latent state."""
    burn_in: int = Field(default=0, ge=0)
    """The first steps of each trajectory warm up the recurrent state and are not trained on."""
    value_head: Literal["categorical", "scalar"] = "categorical"
    """`categorical` predicts a distribution over bins (two-hot targets), `scalar` a single number."""
    num_bins: int = Field(default=601, ge=3)
    """Bins of the categorical head. Must be odd, so that 0 is a bin."""
    value_range: float = Field(default=300.0, gt=0)
    """The bins span [-value_range, value_range] after h(x) = sgn(x)(sqrt(|x| + 1) - 1) + x / 1000."""
    log_std: Literal["parameter", "state"] = "parameter"
    """Where a continuous action's standard deviation comes from: `parameter` is one per dimension, the same in all states;
    `state` is an output of the network."""
    log_std_init: float = Field(default=0.0, ge=LOG_STD_BOUNDS[0], le=LOG_STD_BOUNDS[1])
    """Initial natural logarithm of the standard deviation. The action's bounds are -1 and 1, so 0 covers them."""
    log_std_min: float = Field(default=-5.0, ge=LOG_STD_BOUNDS[0], le=LOG_STD_BOUNDS[1])
    """The smallest logarithm of a standard deviation."""
    log_std_max: float = Field(default=2.0, ge=LOG_STD_BOUNDS[0], le=LOG_STD_BOUNDS[1])
    """The largest logarithm of a standard deviation."""
    squash: Literal["clip", "tanh"] = "clip"
    """How a sampled continuous action is brought within its bounds. `clip` clips it; `tanh` squashes it, and the entropy
    is that of the squashed action."""
    model_hidden: int = Field(default=64, ge=1)
    """Hidden width of the dynamics model's reward and value heads."""
    action_embedding_std: float | None = Field(default=None, gt=0)
    """Standard deviation of the dynamics model's initial action embeddings (of a continuous action: of its weights). Null
    means 1 / sqrt(width of the latent state). With a larger value, the model distinguishes actions sooner."""

    @property
    def own_encoder(self) -> bool:
        """Whether the encoder is the user's own."""
        return ":" in self.encoder

    @model_validator(mode="after")
    def _check(self) -> AgentSettings:
        if self.encoder not in ENCODERS and not OWN.match(self.encoder):
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, or your own as module:make, got {self.encoder!r}")
        for path, encoder in self.encoders.items():
            if encoder not in (*ENCODERS, "none"):
                raise ValueError(f"encoders.{path} must be one of {', '.join(ENCODERS)}, none, got {encoder!r}")
        if self.num_bins % 2 == 0:
            raise ValueError(f"num_bins must be odd, so that 0 is a bin, got {self.num_bins}")
        if not self.log_std_min <= self.log_std_init <= self.log_std_max:
            raise ValueError(
                f"log_std_min <= log_std_init <= log_std_max must hold, got {self.log_std_min}, {self.log_std_init} and "
                f"{self.log_std_max}"
            )
        if self.value_trunk == "separate" and self.core != "none":
            raise ValueError(f"value_trunk=separate needs core=none: policy and value would share the {self.core}")
        if self.burn_in and self.core == "none":
            raise ValueError(f"burn_in={self.burn_in} needs a recurrent core; set agent.core to lstm or gru")
        return self
