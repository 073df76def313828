"""Checks, before a run starts, that the replay buffer can fill its share of every batch."""

from __future__ import annotations

from learner.plan import Plan
from oatmill.errors import SettingsError
from protocol.data.run_schema import RunSchema
from replay.store.buffer import BufferSettings, capacity_of, replayed_rows
from runner.settings import RunSettings


def check_replay(settings: RunSettings) -> None:
    """Check that the buffer can fill its share of each batch, and that the policy loss can use old data.

    Raises:
        SettingsError: if not, with the reason and a solution.
    """
    replay, trainer = settings.replay, settings.trainer
    if not replay.fraction:
        if replay.sampling == "prioritised":
            raise SettingsError(
                "replay.sampling=prioritised has no effect with replay.fraction=0, because nothing is sampled from the buffer; "
                "set replay.fraction above 0, or replay.sampling to uniform"
            )
        return
    actor = trainer.losses.ppo_actor
    if actor.enabled and actor.anchor != "proximal":
        raise SettingsError(
            f"replay.fraction={replay.fraction:g} needs trainer.losses.ppo_actor.anchor=proximal: with the anchor behaviour, "
            "PPO's clip removes the gradient of most old data; set the anchor, or replay.fraction=0"
        )
    part = trainer.batch_size // trainer.learners
    replayed = replayed_rows(replay.fraction, part)
    if not replayed:
        raise SettingsError(
            f"replay.fraction={replay.fraction:g} of a rank's {part} trajectories is less than one, so nothing is replayed; "
            f"raise trainer.batch_size to {trainer.learners * -int(-1 // replay.fraction)} or more, or the fraction"
        )
    if replay.buffer_size < replayed * trainer.learners:
        raise SettingsError(
            f"replay.buffer_size must be at least {replayed * trainer.learners}, the number of replayed trajectories in a "
            f"batch, got {replay.buffer_size}"
        )
    times = replayed / (part - replayed)
    if replay.max_times_sampled is not None and replay.max_times_sampled < times:
        raise SettingsError(
            f"replay.max_times_sampled must be at least {times:.4g}, got {replay.max_times_sampled}: each batch adds "
            f"{part - replayed} trajectories and samples {replayed}, so the buffer would run empty; raise it, or "
            "lower replay.fraction"
        )


def check_priorities(settings: RunSettings, plan: Plan) -> None:
    """Check that sampling by priority has priorities, which need the value targets of a loss.

    Raises:
        SettingsError: if not, with the reason and a solution.
    """
    if settings.replay.sampling == "prioritised" and "returns" not in plan.order:
        raise SettingsError(
            "replay.sampling=prioritised needs the distance between value targets and values, but no enabled loss has value "
            "targets; enable trainer.losses.ppo_critic, or set replay.sampling=uniform"
        )


def check_buffer_bytes(settings: RunSettings, schema: RunSchema) -> None:
    """Check that the buffer's memory is enough for the trajectories that one batch samples.

    Args:
        settings: settings that `check_replay` has accepted.
        schema: the format of a trajectory.

    Raises:
        SettingsError: if it is not.
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
