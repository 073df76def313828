"""Plans a run without starting it: builds the environment once and orders the losses."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

from actors.environments.base import name_of
from actors.settings import GymnasiumEnv
from agent.spec import AgentSpec
from oatmill.errors import UserError
from oatmill.settings import yaml_format
from oatmill.settings.flat import AUTO_ENCODERS
from oatmill.system import system_note
from protocol.data.run_schema import RunSchema
from protocol.data.spaces import ActionSpace, DictSpace, Spaces
from replay.ingest.actors.credit import batches_for_all, most_rows_while_waiting
from replay.settings import ReplaySettings
from replay.store.buffer import replayed_rows
from runner.observer import counted, in_words
from runner.replay_checks import check_buffer_bytes, check_priorities, check_replay
from runner.settings import EvaluatorSettings, RunSettings, prepared
from runner.user_code_process import UserCodeProcess

if TYPE_CHECKING:  # with torch: what needs them loads them, so that the environment can be built meanwhile
    from torch import nn

    from learner.cost import PlanCost
    from learner.plan import Plan

SHUFFLED = {"trajectories": "of whole trajectories", "steps": "of single steps"}

DAY_S = 24 * 3600
FEW_UPDATES, MUCH_DATA = 1000, 500
"""A run of fewer updates, each for more env steps, learns little: the data would serve for more of them."""

BUILD_AT_LEAST_S = 60.0
"""Minimum time limit for building an environment; `actors.hang_timeout` may be shorter, because it
limits single steps."""


@dataclass(frozen=True)
class PlanReport:
    """A checked run.

    Attributes:
        settings: settings that the run starts with.
        spaces: observation and action spaces of the environment.
        plan: the losses and the nodes that they need, in order.
        auto: the choice for each `auto` setting, by path.
        notes: notes for the user, one line each.
    """

    settings: RunSettings
    spaces: Spaces
    plan: Plan
    auto: Mapping[str, str]
    notes: tuple[str, ...]

    @cached_property
    def cost(self) -> PlanCost:
        """The cost of the plan; computing it takes about a second, so a run does not need it."""
        from learner.cost import plan_cost  # noqa: PLC0415

        settings = self.settings
        spec = AgentSpec(self.spaces, settings.agent)
        return plan_cost(self.plan, spec, settings.trainer, unroll_length=settings.actors.unroll_length)

    @cached_property
    def step_seconds(self) -> float | None:
        """The time of a learner step, measured on this machine's CPU; None for a GPU."""
        from learner.device import choose_device  # noqa: PLC0415
        from learner.step_time import step_seconds  # noqa: PLC0415

        settings = self.settings
        if choose_device(settings.trainer.device, 0).type != "cpu":
            return None
        spec = AgentSpec(self.spaces, settings.agent)
        return step_seconds(
            self.plan, spec, settings.trainer, unroll_length=settings.actors.unroll_length, threads=self.threads
        )

    @property
    def threads(self) -> int:
        """The CPU threads of a learner rank on this machine."""
        return int(self.auto.get("trainer.threads", self.settings.trainer.threads))

    @property
    def learner_steps(self) -> int:
        """The learner steps that the budget comes to."""
        trainer = self.settings.trainer
        fresh = self._fresh_rows() * trainer.learners * self.settings.actors.unroll_length
        return -(-trainer.total_timesteps // fresh)

    @property
    def updates(self) -> int:
        """The optimizer's updates that the budget comes to."""
        return self.learner_steps * self.settings.trainer.epochs * self.settings.trainer.minibatches

    def few_updates(self) -> tuple[str, ...]:
        """A note if the budget has much data and few updates, such as the Muesli paper's one per batch in a short run."""
        total = self.settings.trainer.total_timesteps
        if self.updates >= FEW_UPDATES or total < MUCH_DATA * self.updates:
            return ()
        return (
            f"few updates: {counted(self.updates, 'update')} for {counted(total, 'env step')}; such a run learns little; raise "
            "trainer.minibatches or trainer.epochs",
        )

    def idle_actors(self, agents: int) -> tuple[str, ...]:
        """A note if the queue's limit lets less than half of the actors collect at a time.

        Args:
            agents: the number of agents of one environment, each of which has a trajectory.
        """
        count, block = self.settings.actors.count, self.settings.actors.envs_per_actor * agents
        fresh, synchronous = self._fresh_rows() * self.settings.trainer.learners, self.settings.actors.synchronous
        limit = most_rows_while_waiting(self.settings.replay.queue_batches, fresh, block, synchronous=synchronous)
        if count * block < 2 * limit:
            return ()
        batches = f"set replay.queue_batches={batches_for_all(fresh, block, count):g} (older data), or "
        return (
            f"idle actors: at most {limit // block} of {count} actors can collect at a time: {limit} trajectories may wait or "
            f"be collected, and each actor collects {block}; if the learner waits for data, "
            f"{'' if synchronous else batches}raise trainer.batch_size",
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of `oatmill plan --json`."""
        return {
            "order": self.plan.order,
            "reads": self.plan.reads,
            "writes": self.plan.writes,
            "settings": self.settings.to_dict(),
            "auto": dict(self.auto),
            "notes": list(self.notes),
            "cost": asdict(self.cost),
            "step_seconds": self.step_seconds,
        }

    def to_text(self, *, cost: bool = False) -> str:
        """The text of `oatmill plan` and plan.txt.

        Args:
            cost: whether to include the cost.
        """
        action = self.spaces.action
        trainer, unroll_length = self.settings.trainer, self.settings.actors.unroll_length
        batch = trainer.batch_size * unroll_length
        parts = [
            "environment",
            *self._observations(),
            f"  actions       {action_text(action)}",
            "",
            "learner step",
            f"  batch         {trainer.batch_size} trajectories x {unroll_length} steps = {batch:,} env steps",
            *self._replay(),
            f"  updates       {counted(trainer.epochs, 'epoch')} x {counted(trainer.minibatches, 'minibatch')} "
            f"{SHUFFLED[trainer.shuffle]} on {counted(trainer.learners, 'rank')}",
            f"  budget        {counted(trainer.total_timesteps, 'env step')} = {counted(self.learner_steps, 'learner step')} = "
            f"{counted(self.updates, 'update')}",
            f"  policy lag    {self._policy_lag()}",
            *(self._time() if cost else []),
            "",
            "order",
            *(line for name in self.plan.order for line in self._node(name)),
            "",
            *(self._costs() if cost else []),
            "auto",
            *(f"  {path} = {choice}" for path, choice in self.auto.items()),
            "",
            *(["notes", *(f"  {note}" for note in self.notes), ""] if self.notes else []),
            "settings",
            *(f"  {line}" for line in yaml_format.dump(self.settings.to_dict()).splitlines()),
        ]
        return "\n".join(parts) + "\n"

    def _policy_lag(self) -> str:
        if self.settings.actors.synchronous:
            return "0 versions: actors wait for the new weights before they collect the next batch (actors.synchronous)"
        return f"{counted(ceil(self.settings.replay.queue_batches), 'version')}: actors collect while the learner trains"

    def _time(self) -> list[str]:
        """The estimated time of a learner step and of the budget, and a warning if that is more than a day."""
        if self.step_seconds is None:
            return []
        whole = self.step_seconds * self.learner_steps
        lines = [
            f"  time          about {self.step_seconds:.2g} s on this machine's CPU with trainer.threads="
            f"{self.threads}, {in_words(whole)} for the budget if actors keep up"
        ]
        if whole > DAY_S:
            lines.append(
                "  warning       this takes longer than a day; use a smaller network (agent.encoder, agent.hidden_sizes), "
                "fewer epochs or a GPU"
            )
        return lines

    def _observations(self) -> list[str]:
        """The observation, or a line for each key of a Dict; image axes are channels, height and width."""
        space = self.spaces.observation
        if not isinstance(space, DictSpace):
            return [f"  observations  {space.kind} {space.dtype} {list(space.shape)}"]
        spec = AgentSpec(self.spaces, self.settings.agent)
        encoders = {path: f", encoder {spec.encoder_of(path)}" for path in spec.seen} if not spec.settings.own_encoder else {}
        keys = [
            f"    {path:<12}{part.kind} {part.dtype} {list(part.shape)}{encoders.get(path, '')}" for path, part in space.parts
        ]
        return ["  observations  Dict", *keys]

    def _replay(self) -> list[str]:
        """The number of replayed trajectories per batch, and how often each trajectory is trained on."""
        trainer, replay, fresh = self.settings.trainer, self.settings.replay, self._fresh_rows()
        part = trainer.batch_size // trainer.learners
        if fresh == part:
            return []
        return [
            f"  replay        {(part - fresh) * trainer.learners} of them from a buffer of up to "
            f"{replay.buffer_size}, once it holds that many; each is trained on {part / fresh:.3g} times on average",
            f"  sampling      {_sampling(replay)}; {part / fresh:.3g} samples per insert, including the first, fresh one",
        ]

    def _fresh_rows(self) -> int:
        """Number of fresh trajectories in one rank's part of a batch."""
        part = self.settings.trainer.batch_size // self.settings.trainer.learners
        return part - replayed_rows(self.settings.replay.fraction, part)

    def _node(self, name: str) -> list[str]:
        mark = "loss" if name in self.plan.losses else "node"
        return [
            f"  {name} ({mark})",
            f"    reads   {', '.join(self.plan.reads[name]) or '-'}",
            f"    writes  {', '.join(self.plan.writes[name]) or '-'}",
        ]

    def _costs(self) -> list[str]:
        cost = self.cost
        total = sum(cost.flops.values())
        losses = [
            f"  {loss:<13} trains {cost.trained[loss]:,}; {', '.join(f'{term} x {coef:g}' for term, coef in terms.items())}"
            for loss, terms in cost.coefs.items()
        ]
        nodes = [f"  {name:<13} {flops / 1e9:9.3f}  {flops / total:4.0%}" for name, flops in cost.flops.items() if flops]
        return [
            f"{cost.parameters:,} trained parameters; parameters and coefficients by loss",
            *losses,
            "",
            "GFLOP per batch: matrix products and convolutions of all epochs, forward and backward",
            *nodes,
            f"  {'total':<13} {total / 1e9:9.3f}",
            "",
        ]


def _sampling(replay: ReplaySettings) -> str:
    """How trajectories are sampled from the buffer."""
    if replay.sampling == "uniform":
        return "uniform"
    chance = f"|value target - V| ^ {replay.priority_exponent:g}"
    return f"prioritised, in proportion to {chance}, corrected by importance weights ^ {replay.importance_exponent:g}"


def check_videos(settings: EvaluatorSettings) -> None:
    """Raise a UserError if the evaluator is to make videos and the package that writes them is missing."""
    if settings.enabled and settings.video_every and importlib.util.find_spec("PIL") is None:
        raise UserError(
            f"evaluator.video_every={settings.video_every} needs the package pillow, which is not installed; "
            "pip install 'oatmill[video]', or set it to 0"
        )


def report_plan(settings: RunSettings, *, resumed: bool = False) -> PlanReport:
    """Check all settings together with the environment, which is built in a separate process.

    Args:
        settings: settings of a recipe with all overrides and later assignments.
        resumed: whether a run goes on, whose network is fixed: what its `auto` meant, it still does.

    Raises:
        UserError: if the settings do not fit together, or the environment cannot be built or is not
            supported.
    """
    fitted, notes = prepared(settings)
    check_replay(fitted)
    with environment_process(fitted) as environment:
        from agent.encoders import make_encoder  # noqa: PLC0415  (loads torch, while the environment is built)
        from learner.plan import make_plan  # noqa: PLC0415
        from learner.reporting.loggers import wanted_targets  # noqa: PLC0415

        wanted_targets(fitted.metrics)  # raises if a package is missing
        check_videos(fitted.evaluator)
        described = environment.result()
        spaces, statistics = Spaces.from_dict(described["spaces"]), tuple(described["episode_statistics"])
        if not resumed:
            use_cpu_networks(fitted, spaces)
        spec = AgentSpec(spaces, fitted.agent)
        encoder = make_encoder(spec)  # raises if it cannot be built, before anything has started
        check_buffer_bytes(fitted, RunSchema(spaces, spec.core_state_size, statistics, fitted.trainer.normalize_returns))
        plan = make_plan(fitted.trainer, fitted.agent, spaces.action)
        check_priorities(fitted, plan)
        others = _learner_autos(fitted, encoder) | _other_autos(
            fitted, spec, vector_class=described["vector_class"], channels=described["channels"]
        )
        notes += [*described["warnings"], *start_notes(fitted, spec, plan, resumed=resumed), *plan.notes]
        if (note := system_note()) is not None:
            notes.append(note)
        report = PlanReport(fitted, spaces, plan, {**plan.auto, **others}, (*notes, *environment.finish()))
        return replace(report, notes=(*report.notes, *report.few_updates(), *report.idle_actors(described["agents"])))


def start_notes(settings: RunSettings, spec: AgentSpec, plan: Plan, *, resumed: bool) -> list[str]:
    """Check `trainer.init_from` and `trainer.freeze_parts` on a network: what the run starts with, in lines.

    Raises:
        UserError: if the checkpoint does not fit, or nothing is left to train.
    """
    trainer = settings.trainer
    if trainer.init_from is None and not trainer.freeze_parts:
        return []
    from agent.model import AgentModel  # noqa: PLC0415
    from learner.update.updater import freeze_unused  # noqa: PLC0415
    from learner.update.warm_start import freeze, warm_start  # noqa: PLC0415

    model = AgentModel(spec)
    started = trainer.init_from is not None and not resumed
    notes = [warm_start(model, str(trainer.init_from), partial=trainer.init_partial)] if started else []
    freeze_unused(model, plan)
    freeze(model, trainer.freeze_parts)
    return notes


def use_cpu_networks(settings: RunSettings, spaces: Spaces) -> None:
    """Set `agent.encoder=auto` to `auto_cpu` if that makes a difference and the learner runs on a CPU.

    The run's settings and checkpoints then say it, whatever machine reads them. Where the roles are
    started one by one, the learner decides (`learner.learner.encoder_of`).
    """
    from learner.device import choose_device  # noqa: PLC0415

    agent = settings.agent
    undecided = agent.encoder == "auto" and AgentSpec(spaces, agent).depends_on_device
    if undecided and choose_device(settings.trainer.device, 0).type == "cpu":
        agent.encoder = "auto_cpu"


def action_text(action: ActionSpace) -> str:
    """An action space in a few words."""
    kind = "MultiDiscrete" if action.factored else "Discrete"
    choices = [f"{kind} {list(action.sizes)}"] if action.sizes else []
    bounds = list(dict.fromkeys(f"{low:g}..{high:g}" for low, high in zip(action.low, action.high, strict=True)))
    numbers = [f"Box [{action.dimensions}] within {', '.join(bounds[:4])}{', ...' if bounds[4:] else ''}"] if bounds else []
    return " and ".join([*choices, *numbers])


def environment_process(settings: RunSettings) -> UserCodeProcess:
    """Start building the environment in a separate process: it may be slow, crash, or exit."""
    return UserCodeProcess(
        "actors.environments.describe",
        settings.env.model_dump(mode="json"),
        what=name_of(settings.env),
        limit_s=max(settings.actors.hang_timeout, BUILD_AT_LEAST_S),
        setting="actors.hang_timeout",
    )


def _learner_autos(settings: RunSettings, encoder: nn.Module) -> dict[str, str]:
    """The precision and the threads of a learner rank on this machine."""
    from learner.device import choose_device, in_bfloat16, learner_threads  # noqa: PLC0415

    trainer = settings.trainer
    half = in_bfloat16(trainer.precision, choose_device(trainer.device, 0), encoder)
    autos = {}
    if trainer.precision == "auto":
        autos["trainer.precision"] = "bfloat16" if half else "float32"
    if trainer.threads == "auto":
        autos["trainer.threads"] = str(learner_threads(trainer, settings.to_dict(), encoder, half=half))
    return autos


def _other_autos(settings: RunSettings, spec: AgentSpec, *, vector_class: bool, channels: str | None) -> dict[str, str]:
    """The choice for each `auto` setting outside the losses."""
    from learner.device import choose_device  # noqa: PLC0415

    device = choose_device(settings.trainer.device, 0).type
    autos = {"agent.encoder": spec.encoder} if settings.agent.encoder in AUTO_ENCODERS else {}
    if settings.trainer.device == "auto":
        autos["trainer.device"] = device
    if isinstance(settings.env, GymnasiumEnv) and settings.env.vectorization == "auto":
        autos["env.vectorization"] = "vector_entry_point" if vector_class else "sync"
    if channels is not None and getattr(settings.env, "channels", None) == "auto":
        autos["env.channels"] = channels
    return autos
