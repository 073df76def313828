"""Settings of the learner: the update, the losses and what is done about red flags (no torch)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from protocol.errors import SettingsError
from protocol.settings import Settings

OwnFunction = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
"""`module:function`."""


class PpoCriticSettings(Settings):
    """Fit the value head to the return target."""

    enabled: bool = True
    vf_coef: float = Field(default=0.5, ge=0)
    clip_vloss: bool = False
    vf_clip_coef: float = Field(default=0.1, ge=0)
    """Half the width of the value clip, in units of (scaled) reward."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    rho_clip: float = Field(default=1.0, gt=0)
    c_clip: float = Field(default=1.0, gt=0)
    gamma: float | None = Field(default=None, ge=0, le=1)
    """Another name for trainer.gamma, as the guide's code has it; None takes trainer.gamma."""


class CmpoSettings(Settings):
    """Pull the policy towards the prior tilted by clipped advantages."""

    enabled: bool = False
    kl_coef: float = Field(default=0.01, ge=0)
    advantage_clip: float = Field(default=1.0, gt=0)
    advantage: Literal["auto", "model", "sampled"] = "auto"
    baseline: Literal["prior_value", "prior_expected_q"] = "prior_value"
    prior_ema_rate: float = Field(default=0.1, gt=0, le=1)
    variance_decay: float = Field(default=0.99, ge=0, lt=1)
    variance_eps: float = Field(default=1e-12, ge=0)
    estimator: Literal["auto", "exact", "sampled"] = "auto"
    num_samples: int = Field(default=16, ge=2)


class PpoActorSettings(Settings):
    """The clipped surrogate and the entropy bonus."""

    enabled: bool = True
    clip_coef: float = Field(default=0.2, gt=0, le=1)
    ent_coef: float = Field(default=0.01, ge=0)
    norm_adv: bool = True
    target_kl: float | None = Field(default=None, gt=0)
    anchor: Literal["behaviour", "proximal"] = "behaviour"


class MuesliPgSettings(Settings):
    """The policy gradient of the Muesli paper, in the place of ppo_actor."""

    enabled: bool = False
    pg_coef: float = Field(default=1.0, ge=0)
    ratio_clip: float = Field(default=1.0, gt=0)
    """The cut of pi / pi_b, the weight of what was sampled; above it the correction is less than importance sampling asks."""


class DynamicsSettings(Settings):
    """Train the latent model's rewards and returns along the actions really taken."""

    enabled: bool = False
    unroll_steps: int = Field(default=3, ge=1, le=20)
    returns_pred_coef: float = Field(default=1.0, ge=0, le=1)
    reward_pred_coef: float = Field(default=1.0, ge=0, le=1)
    gradient_scale: float = Field(default=0.5, ge=0, le=1)
    """What a gradient is multiplied by at each step back through the latent model."""

    @property
    def predicts_q(self) -> bool:
        """Whether the model is trained to predict both parts of a one-step q = r + gamma v."""
        return self.enabled and self.returns_pred_coef > 0 and self.reward_pred_coef > 0


class MuesliModelSettings(Settings):
    """Train the latent model's policies towards the improved policy."""

    enabled: bool = False
    policy_pred_coef: float = Field(default=0.001, ge=0)
    policy_horizon: int = Field(default=1, ge=1, le=20)
    policy_target: Literal["auto", "cmpo", "prior"] = "auto"


class LossSettings(Settings):
    """The losses, in the order in which they are applied."""

    ppo_critic: PpoCriticSettings = Field(default_factory=PpoCriticSettings)
    cmpo: CmpoSettings = Field(default_factory=CmpoSettings)
    ppo_actor: PpoActorSettings = Field(default_factory=PpoActorSettings)
    muesli_pg: MuesliPgSettings = Field(default_factory=MuesliPgSettings)
    dynamics: DynamicsSettings = Field(default_factory=DynamicsSettings)
    muesli_model: MuesliModelSettings = Field(default_factory=MuesliModelSettings)


class OptimizerSettings(Settings):
    """AdamW and its schedule."""

    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["linear", "constant"] = "linear"
    """`linear` falls to 0 over trainer.total_timesteps."""
    eps: float = Field(default=1e-5, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)


class TrainerSettings(Settings):
    """The update."""

    total_timesteps: int = Field(default=1_000_000, ge=1)
    """Env steps of single agents to train on, each counted once."""
    batch_size: int = Field(default=64, ge=1)
    """Trajectories of one learner step, over all ranks."""
    epochs: int = Field(default=4, ge=1)
    minibatches: int = Field(default=4, ge=1)
    """Parts that a rank's share of a batch is cut into."""
    shuffle: Literal["trajectories", "steps"] = "trajectories"
    """What a part is drawn from: whole trajectories, or single steps of any. The steps of one trajectory are much alike, so a
    few whole ones say less of the batch than as many steps from everywhere. `steps` needs a network without a core."""
    gamma: float = Field(default=0.99, ge=0, le=1)
    returns: Literal["gae_vtrace", "retrace"] = "gae_vtrace"
    reward_scale: float = Field(default=1.0, gt=0)
    reward_clip: float | None = Field(default=None, gt=0)
    """After scaling, rewards are cut to [-reward_clip, reward_clip]."""
    max_grad_norm: float = Field(default=0.5, gt=0)
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    losses: LossSettings = Field(default_factory=LossSettings)
    extra_losses: tuple[OwnFunction, ...] = ()
    """Losses of one's own as `module:choose`, applied after the others; docs/adding-a-loss.md."""
    learners: int = Field(default=1, ge=1, le=1024)
    """Ranks."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    autocast: Literal["none", "bfloat16"] = "none"
    compile: bool = False
    """torch.compile for the network; where the learner runs, it needs a C++ compiler."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of one rank."""
    weights_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """How weights travel to the actors."""
    on_red_flag: Literal["warn", "reduce", "stop"] = "warn"
    """`reduce` halves the coefficients of an auxiliary loss (cmpo, dynamics, muesli_model) that a flag blames; `stop` ends the
    run with a checkpoint."""
    balance: Literal["none", "gradient_share"] = "none"
    """`gradient_share` moves the auxiliary losses' coefficients until each has `balance_share` of the gradient on the trunk."""
    balance_share: float = Field(default=0.1, gt=0, le=0.3)
    """Each auxiliary loss's part of the sum of the losses' gradient norms, 0..0.3: three of them leave PPO something."""
    balance_limit: float = Field(default=1000.0, ge=1)
    """A coefficient stays within this many times, and this part of, what it was set to."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Learner steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = Field(default=3, ge=1)
    max_restarts: int = Field(default=3, ge=0)
    """How often in a row a learner that broke down is started again without a reported learner step in between."""
    max_rewinds: int = Field(default=3, ge=0)
    """How often in a row, without a new checkpoint in between, a run that is no longer finite goes back to its last one."""
    data_timeout: float = Field(default=120.0, gt=0)
    """Seconds to wait for a batch before the run is called starved and ends with the reason."""
    distributed_timeout: float = Field(default=60.0, gt=0)
    """Seconds that a rank waits for the others in a collective operation before it gives up (gloo and NCCL)."""
    hang_timeout: float = Field(default=300.0, gt=0)
    """Seconds without progress after which a learner rank writes all stacks to its log and ends, to be started again; the
    supervisor too ends so."""
    memory_bytes: int | None = Field(default=None, ge=2**28)
    """Memory that a learner rank may hold; None takes 80 % of what the machine, or the container, has. A process that
    holds more says so and ends, to be started again."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> TrainerSettings:
        _ = self.discount
        return self

    @model_serializer(mode="wrap")
    def _with_one_gamma(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A written config names every setting, so a gamma that nobody set would contradict its other name when it is read back.
        values: dict[str, Any] = handler(self)
        if "gamma" not in self.model_fields_set:
            values["gamma"] = self.discount
        return values

    @property
    def discount(self) -> float:
        """gamma, under whichever of its two names it was set.

        Raises:
            SettingsError: if both were set, and differ.
        """
        named = self.losses.ppo_critic.gamma
        if named is None:
            return self.gamma
        if "gamma" in self.model_fields_set and named != self.gamma:
            raise SettingsError(
                f"trainer.gamma={self.gamma} and trainer.losses.ppo_critic.gamma={named} name the same discount; set one"
            )
        return named
