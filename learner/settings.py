"""Settings of the learner: the update, the losses and what is done about red flags (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, SerializerFunctionWrapHandler, model_serializer, model_validator

from oatmill.errors import SettingsError
from oatmill.settings.base import Settings

OwnFunction = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
"""`module:function`."""


FrozenPart = Literal["encoder", "core", "policy", "value", "dynamics", "normaliser"]
Points = tuple[tuple[float, float], ...]
"""A piecewise linear schedule: `(fraction of the budget, factor)`, in order."""


class PpoCriticSettings(Settings):
    """Trains the value head on the value targets."""

    enabled: bool = True
    """Whether to train the value head."""
    vf_coef: float = Field(default=0.5, ge=0)
    """Coefficient of the value loss."""
    clip_vloss: bool = False
    """Clip the new value to within `vf_clip_coef` of the value at the start of the batch, as PPO2
    does."""
    vf_clip_coef: float = Field(default=0.1, ge=0)
    """Clip range of the value, in units of scaled reward. Used when `clip_vloss` is true."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Lambda of GAE and of the V-trace or Retrace return: 0 is one-step TD, 1 is the full return."""
    rho_clip: float = Field(default=1.0, gt=0)
    """V-trace: upper bound of the importance ratio in each TD error."""
    c_clip: float = Field(default=1.0, gt=0)
    """V-trace and Retrace: upper bound of the importance ratio that cuts the trace."""
    gamma: float | None = Field(default=None, ge=0, le=1)
    """Another name for `trainer.gamma`. Leave it null to use `trainer.gamma`."""


class CmpoSettings(Settings):
    """Trains the policy towards the prior policy, reweighted by clipped advantages."""

    enabled: bool = False
    """Whether to add the CMPO loss."""
    kl_coef: float = Field(default=0.01, ge=0)
    """Coefficient of the KL from the CMPO policy to the trained policy."""
    advantage_clip: float = Field(default=1.0, gt=0)
    """Advantages are clipped to [-advantage_clip, advantage_clip] before they reweight the prior policy."""
    temperature: float = Field(default=1.0, gt=0)
    """Advantages are divided by sigma and by this. A lower temperature changes the prior policy more."""
    advantage: Literal["auto", "model", "sampled"] = "auto"
    """Where advantages come from: `model` uses the dynamics model for every action, `sampled` the
    return of the action that was taken. `auto` uses the model if the dynamics loss trains it."""
    baseline: Literal["prior_value", "prior_expected_q"] = "prior_value"
    """What is subtracted from q: the prior network's value (`prior_value`), or the expectation of q
    under the prior policy (`prior_expected_q`)."""
    prior_ema_rate: float = Field(default=0.1, gt=0, le=1)
    """Rate at which the prior network moves towards the trained network, once per update. 1 copies
    the trained network."""
    variance_decay: float = Field(default=0.99, ge=0, lt=1)
    """Decay, per batch, of the running mean square of the value errors. Advantages are divided by
    its root."""
    variance_eps: float = Field(default=1e-12, ge=0)
    """Added to that mean square before the root, for numerical stability."""
    estimator: Literal["auto", "exact", "sampled"] = "auto"
    """How the KL is computed: `exact` over all actions, or `sampled` from `num_samples` actions of
    the prior. `auto` samples if there are more than 32 actions."""
    num_samples: int = Field(default=16, ge=2)
    """Actions that the sampled estimator samples per state."""


class PpoActorSettings(Settings):
    """The clipped surrogate and the entropy bonus."""

    enabled: bool = True
    """Whether to train the policy with PPO."""
    clip_coef: float = Field(default=0.2, gt=0, le=1)
    """PPO's clip range of the probability ratio."""
    ent_coef: float = Field(default=0.01, ge=0)
    """Coefficient of the entropy bonus."""
    norm_adv: bool = True
    """Normalise advantages to mean 0 and standard deviation 1, once per batch."""
    target_kl: float | None = Field(default=None, gt=0)
    """Skip the remaining epochs of a batch after an epoch whose mean approximate KL exceeds this,
    in nats. Null means no limit."""
    anchor: Literal["behaviour", "proximal"] = "behaviour"
    """The policy that the ratio is clipped around: the policy that acted (`behaviour`), or the policy at
    the start of the batch (`proximal`), which is better for replayed data."""


class MuesliPgSettings(Settings):
    """The policy gradient of the Muesli paper, in the place of ppo_actor."""

    enabled: bool = False
    """Whether to train the policy with Muesli's policy gradient. It replaces `ppo_actor`."""
    pg_coef: float = Field(default=1.0, ge=0)
    """Coefficient of the policy gradient."""
    ent_coef: float = Field(default=0.0, ge=0)
    """Coefficient of the entropy bonus. The paper has none."""
    ratio_clip: float = Field(default=1.0, gt=0)
    """Upper bound of the importance ratio between the trained policy and the policy that acted."""


class DynamicsSettings(Settings):
    """Train the latent model's rewards and returns along the actions really taken."""

    enabled: bool = False
    """Whether to train the dynamics model."""
    unroll_steps: int = Field(default=3, ge=1, le=20)
    """K: how many steps the model is unrolled from each state."""
    returns_pred_coef: float = Field(default=1.0, ge=0, le=1)
    """Coefficient of the model's value loss."""
    reward_pred_coef: float = Field(default=1.0, ge=0, le=1)
    """Coefficient of the model's reward loss."""
    gradient_scale: float = Field(default=0.5, ge=0, le=1)
    """The gradient is multiplied by this at each step back through the model."""
    start_fraction: float = Field(default=1.0, gt=0, le=1)
    """Fraction of each minibatch's steps from which the model is unrolled, sampled at random for each update. The
    expected gradient stays the same. The losses `dynamics` and `muesli_model` use the same steps."""
    update_every: int = Field(default=1, ge=1)
    """Train the model in every Nth update only, counted from the last minibatch of each epoch. N = 4 costs about a quarter.
    The losses `dynamics` and `muesli_model` are left out of the other updates, and their coefficients stay the same."""
    value_target: Literal["return", "prior_bootstrap", "advantage"] = "return"
    """What the model's value head is trained towards: the value target of the state that is reached (`return`), the
    prior network's value of it (`prior_bootstrap`), or the action's one-step advantage by the prior network's values
    (`advantage`), in units of sigma. With `advantage`, sigma is the deviation of these advantages."""

    @property
    def predicts_advantages(self) -> bool:
        """Whether the model's value head is trained to predict advantages."""
        return self.enabled and self.value_target == "advantage"

    @property
    def predicts_q(self) -> bool:
        """Whether the model is trained to predict a one-step q: as r + gamma v, or as an advantage."""
        return self.enabled and self.returns_pred_coef > 0 and (self.reward_pred_coef > 0 or self.predicts_advantages)


class MuesliModelSettings(Settings):
    """Train the latent model's policies towards the improved policy."""

    enabled: bool = False
    """Whether to train the model's policies."""
    policy_pred_coef: float = Field(default=0.001, ge=0)
    """Coefficient of the cross-entropy to the target policy."""
    policy_horizon: int = Field(default=1, ge=1, le=20)
    """How many model steps have a policy target; at most `dynamics.unroll_steps`."""
    policy_target: Literal["auto", "cmpo", "prior"] = "auto"
    """The target: CMPO's policy (`cmpo`) or the prior policy (`prior`). `auto` uses CMPO's policy
    if CMPO is enabled."""


class LossSettings(Settings):
    """The losses, in the order in which they are applied."""

    ppo_critic: PpoCriticSettings = Field(default_factory=PpoCriticSettings)
    cmpo: CmpoSettings = Field(default_factory=CmpoSettings)
    ppo_actor: PpoActorSettings = Field(default_factory=PpoActorSettings)
    muesli_pg: MuesliPgSettings = Field(default_factory=MuesliPgSettings)
    dynamics: DynamicsSettings = Field(default_factory=DynamicsSettings)
    muesli_model: MuesliModelSettings = Field(default_factory=MuesliModelSettings)

    @property
    def prior_rate(self) -> float:
        """The rate at which the prior network follows the trained one."""
        return self.cmpo.prior_ema_rate

    @property
    def prior_samples(self) -> int:
        """How many actions the prior draws per state, for losses that read drawn actions."""
        return self.cmpo.num_samples

    @property
    def sigma(self) -> tuple[float, float]:
        """Decay and epsilon of the running scale that advantages are divided by."""
        return self.cmpo.variance_decay, self.cmpo.variance_eps

    @property
    def policy_horizon(self) -> int:
        """For how many steps the model predicts policies."""
        return self.muesli_model.policy_horizon


class OptimizerSettings(Settings):
    """AdamW and its schedule."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of AdamW at the start."""
    schedule: Literal["linear", "cosine", "constant", "piecewise"] = "linear"
    """`linear` and `cosine` decay the learning rate to 0 over `trainer.total_timesteps`; `constant` keeps it;
    `piecewise` follows `schedule_points`."""
    schedule_points: Points = ()
    """`[fraction of the budget, factor]` in order, linear in between: `[[0, 0], [0.05, 1], [1, 0]]` warms up and decays."""
    eps: float = Field(default=1e-5, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay rate of the first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's decay rate of the second moment."""


class TeacherSettings(Settings):
    """The teacher of the loss `learner.losses.teacher:choose`, which `trainer.extra_losses` turns on."""

    policy: str | None = Field(default=None, min_length=1)
    """The teacher: a run folder (its newest checkpoint) or a checkpoint, of the same environment."""
    kl_coef: float = Field(default=1.0, ge=0)
    """Coefficient of the KL from the teacher to the trained policy, at the start. It falls to 0 over the
    budget unless `trainer.coef_schedules.teacher` says otherwise."""


class TrainerSettings(Settings):
    """The update."""

    earlier_names: ClassVar[Mapping[str, str]] = {"normalise_rewards": "normalize_returns"}

    total_timesteps: int = Field(default=1_000_000, ge=1)
    """Env steps to train on. Each step of each agent counts once."""
    batch_size: int = Field(default=64, ge=1)
    """Trajectories per learner step, over all ranks: a multiple of `minibatches` x `learners`, or of `learners` with
    `shuffle=steps`. A value that you set is used as it is. The default of a recipe or preset is rounded down, and made
    smaller for a budget of fewer than 20 batches."""
    epochs: int = Field(default=4, ge=1)
    """Passes over each batch."""
    minibatches: int = Field(default=4, ge=1)
    """Number of minibatches into which each rank's share of a batch is split. With `shuffle=steps`, their sizes may
    differ by one step."""
    prepare_every: Literal["batch", "epoch"] | Annotated[int, Field(ge=1)] = "batch"
    """When values, advantages, value targets and the other targets of a batch are computed: once per `batch`, or again
    with the current weights before every `epoch`, or after this number of updates. Newer targets cost a forward pass
    over the batch each time. PPO's ratios keep their anchor, the policy at the start of the batch."""
    shuffle: Literal["trajectories", "steps"] = "trajectories"
    """How minibatches are sampled: from whole `trajectories`, or from single `steps`. Steps of one
    trajectory are similar, so single steps represent the batch better. `steps` needs a network
    without a recurrent core."""
    gamma: float = Field(default=0.99, ge=0, le=1)
    """Discount factor."""
    returns: Literal["gae_vtrace", "retrace"] = "gae_vtrace"
    """Return estimator: GAE with V-trace correction, or Retrace."""
    reward_scale: float = Field(default=1.0, gt=0)
    """Rewards are multiplied by this before training. Reported returns are not scaled."""
    normalize_returns: bool = False
    """Divide rewards by the running standard deviation of the discounted return, before `reward_scale` and `reward_clip`.
    With rare rewards the deviation is small at first; set `reward_clip` (10 is usual)."""
    reward_clip: float | None = Field(default=None, gt=0)
    """Scaled rewards are clipped to [-reward_clip, reward_clip]. Null means no clipping."""
    max_grad_norm: float = Field(default=0.5, gt=0)
    """The gradient is scaled down to this norm if it is larger."""
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    losses: LossSettings = Field(default_factory=LossSettings)
    extra_losses: tuple[OwnFunction, ...] = ()
    """Your own losses as `module:choose`, applied after the built-in ones; see
    docs/tutorials/your-own-loss.md."""
    teacher: TeacherSettings = Field(default_factory=TeacherSettings)
    learners: int = Field(default=1, ge=1, le=1024)
    """Number of learner ranks (processes)."""
    average_every: int = Field(default=1, ge=1)
    """With 1, ranks average their gradients in every update and are one learner. With N, each rank trains on its own for N
    updates, and then all average their weights, optimiser moments and prior networks. This needs less time where the exchange
    between ranks is slow. It is another algorithm (local SGD): each rank takes its mean over its own rows."""
    init_from: str | None = Field(default=None, min_length=1)
    """Start with the weights and observation statistics of this run folder or checkpoint, matched by name."""
    init_partial: bool = False
    """Start even if some parameters do not fit those of `init_from`. These keep their random initial values."""
    freeze_parts: tuple[FrozenPart, ...] = ()
    """Parts of the network that are not trained: encoder, core, policy, value, dynamics, normaliser."""
    coef_schedules: dict[str, Literal["linear", "cosine", "constant"] | Points] = Field(default_factory=dict)
    """Schedules of coefficients, by setting (`ent_coef`) or loss (`cmpo`): `linear` or `cosine` to 0,
    `constant`, or points as in `optimizer.schedule_points`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network is trained. `auto` uses CUDA if it is available."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """The data type in which encoders are computed; the core, heads and losses stay in float32. `auto` uses bfloat16 on
    Intel CPUs with AMX and AMD CPUs with AVX512_BF16, for image encoders that this makes faster, and float32 otherwise."""
    compile: bool = False
    """Compile the network with torch.compile. The learner's machine needs a C++ compiler."""
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """CPU threads per rank. `auto` uses one, except for networks with large convolutions, for which the cores
    that actors leave idle are divided among the ranks."""
    acting_network: Literal["trained", "prior"] = "trained"
    """The network with which actors act: the trained network, or the prior (its moving average), as in the Muesli paper.
    `prior` needs a loss with a prior network, such as `cmpo`. Checkpoints are always evaluated with the trained network."""
    weights_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of the weights that are sent to the actors."""
    on_red_flag: Literal["warn", "reduce", "stop"] = "warn"
    """What happens when a red flag is raised: `warn` reports it, `reduce` halves the coefficients
    of the auxiliary loss that caused it, `stop` ends the run with a checkpoint."""
    balance: Literal["none", "gradient_share"] = "none"
    """`gradient_share` adjusts the coefficients of the auxiliary losses until each has
    `balance_share` of the gradient."""
    balance_share: float = Field(default=0.1, gt=0, le=0.3)
    """Target share of each auxiliary loss in the sum of the gradient norms of all losses."""
    balance_limit: float = Field(default=1000.0, ge=1)
    """A balanced coefficient stays between its setting divided by this and its setting times this."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Learner steps between checkpoints. The last step is always saved."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """How many checkpoints are kept."""
    max_restarts: int = Field(default=3, ge=0)
    """Consecutive restarts of the learner, with no reported learner step in between, before the run
    fails."""
    max_rewinds: int = Field(default=3, ge=0)
    """Consecutive rewinds to the last checkpoint, after values that are not finite, before the run
    fails."""
    data_timeout: float = Field(default=120.0, gt=0)
    """Seconds that the learner waits for a batch before the run ends with an error."""
    distributed_timeout: float = Field(default=60.0, gt=0)
    """Seconds that a rank waits for the others in a collective operation (gloo and NCCL)."""
    hang_timeout: float = Field(default=300.0, gt=0)
    """Seconds without progress after which a learner rank or the supervisor writes all stack traces
    to its log and exits. A rank is restarted."""
    memory_bytes: int | None = Field(default=None, ge=2**28)
    """Memory that a learner rank may use, in bytes. A process that uses more logs an error, exits
    and is restarted. Null means 80 % of the memory of the machine or container."""
    seed: int = Field(default=0, ge=0)
    """Seed of the network's weights and of the learner's random numbers."""

    _batch_size_is_exact: bool = PrivateAttr(default=False)

    @property
    def batch_size_is_exact(self) -> bool:
        """Whether `batch_size` must be used as it is, because the user has set it."""
        return self._batch_size_is_exact

    def keep_batch_size(self) -> None:
        """Use `batch_size` as it is."""
        self._batch_size_is_exact = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign; a batch size that is assigned is used as it is."""
        super().__setattr__(name, value)
        if name == "batch_size":
            self.keep_batch_size()

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        # config.yaml of a run that was started before trainer.precision has trainer.autocast.
        if isinstance(values, dict) and values.get("autocast") in {"none", "bfloat16"} and "precision" not in values:
            old = values["autocast"]
            return {name: value for name, value in values.items() if name != "autocast"} | {
                "precision": "float32" if old == "none" else old
            }
        return values

    @model_validator(mode="after")
    def _check(self) -> TrainerSettings:
        _ = self.discount
        return self

    @model_serializer(mode="wrap")
    def _with_one_gamma(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A written config names every setting, so a gamma that nobody set would contradict its
        # other name when it is read back.
        values: dict[str, Any] = handler(self)
        if "gamma" not in self.model_fields_set:
            values["gamma"] = self.discount
        return values

    @property
    def first_threads(self) -> int:
        """The threads that a rank's process starts with; with `auto` it decides later, when it knows its network."""
        return 1 if self.threads == "auto" else self.threads

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
