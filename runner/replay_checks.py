"""Checks, before a run starts, that the replay buffer can fill its share of every batch."""

from __future__ import annotations

from learner.plan import Plan
from oatmill.errors import SettingsError
from protocol.data.run_schema import RunSchema
from replay.store.buffer import BufferSettings, capacity_of, replayed_rows
from runner.settings import RunSettings


def check_replay(settings: RunSettings) -> None:
    """Refuse settings under which the buffer cannot fill its share, or the policy loss cannot use old data.

    Raises:
        SettingsError: with the reason and a solution.
    """
    replay, trainer = settings.replay, settings.trainer
    if not replay.fraction:
        if replay.sampling == "prioritised":
            raise SettingsError(
                "replay.sampling=prioritised decides what is sampled from the buffer, and with replay.fraction=0 nothing is; "
                "set replay.fraction above 0, or leave replay.sampling at uniform"
            )
        return
    actor = trainer.losses.ppo_actor
    if actor.enabled and actor.anchor != "proximal":
        raise SettingsError(
            f"replay.fraction={replay.fraction:g} needs trainer.losses.ppo_actor.anchor=proximal: PPO's clip against the "
            "policy that acted would cut off what older data has to say; set the anchor, or replay.fraction=0"
        )
    part = trainer.batch_size // trainer.learners
    replayed = replayed_rows(replay.fraction, part)
    if not replayed:
        raise SettingsError(
            f"replay.fraction={replay.fraction:g} of a rank's {part} trajectories is less than one, so nothing is sampled "
            f"again; raise trainer.batch_size to {trainer.learners * -int(-1 // replay.fraction)} or more, or the fraction"
        )
    if replay.buffer_size < replayed * trainer.learners:
        raise SettingsError(
            f"replay.buffer_size must be at least {replayed * trainer.learners}, what one batch samples, got "
            f"{replay.buffer_size}: the buffer could never fill its share"
        )
    times = replayed / (part - replayed)
    if replay.max_times_sampled is not None and replay.max_times_sampled < times:
        raise SettingsError(
            f"replay.max_times_sampled must be at least {times:.4g}, got {replay.max_times_sampled}: each batch brings "
            f"{part - replayed} trajectories and samples {replayed}, so with fewer the buffer would run empty; raise it, or "
            "lower replay.fraction"
        )


def check_priorities(settings: RunSettings, plan: Plan) -> None:
    """Refuse sampling by priority where no loss has a value target: every priority would stay unknown.

    Raises:
        SettingsError: with the reason and the way out.
    """
    if settings.replay.sampling == "prioritised" and "returns" not in plan.order:
        raise SettingsError(
            "replay.sampling=prioritised draws by the distance between value targets and values, and no enabled loss has value "
            "targets; enable trainer.losses.ppo_critic, or set replay.sampling=uniform"
        )


def check_buffer_bytes(settings: RunSettings, schema: RunSchema) -> None:
    """Refuse a buffer whose memory does not hold what one batch samples.

    Args:
        settings: checked by `check_replay`.
        schema: what a trajectory looks like.
    """
    replay, trainer, steps = settings.replay, settings.trainer, settings.actors.unroll_length
    needed = replayed_rows(replay.fraction, trainer.batch_size // trainer.learners) * trainer.learners
    room = capacity_of(schema, steps, BufferSettings(size=replay.buffer_size, max_bytes=replay.buffer_bytes))
    if room < needed:
        row_bytes = schema.row_bytes(steps)
        raise SettingsError(
            f"replay.buffer_bytes must be at least {needed * row_bytes}, got {replay.buffer_bytes}: a trajectory takes up to "
            f"{row_bytes} bytes, and one batch samples {needed} of them"
        )
