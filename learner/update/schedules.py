"""How the learning rate and the losses' coefficients change over the budget (`trainer.total_timesteps`)."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from learner.loss import Context
from learner.loss_descriptor import LossDescriptor
from learner.settings import Points, TrainerSettings
from oatmill.errors import SettingsError

ALL_TERMS = ""
"""In the place of a term's name: all terms of a loss."""
Factors = dict[tuple[str, str], float]
"""By the names of a loss and of its term, or `ALL_TERMS`."""


def factor(schedule: str, points: Points, done: float) -> float:
    """What the first value is multiplied by.

    Args:
        schedule: `constant`; `linear` or `cosine`, which fall from 1 to 0; `piecewise`.
        points: `(fraction of the budget, factor)`, in order; only used by `piecewise`.
        done: the fraction of the budget that has been trained on; above 1 counts as 1.
    """
    done = min(max(done, 0.0), 1.0)
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return between(points, done) if schedule == "piecewise" else 1.0


def between(points: Points, done: float) -> float:
    """The factor at a fraction of the budget: linear between two points, and constant before the first and after the last."""
    after = bisect_right([at for at, _ in points], done)
    if after in {0, len(points)}:
        return points[min(after, len(points) - 1)][1]
    (start, low), (end, high) = points[after - 1 : after + 1]
    return low + (high - low) * (done - start) / (end - start)


def learning_rate(trainer: TrainerSettings, env_steps: int) -> float:
    """The learning rate of the next learner step."""
    optimizer = trainer.optimizer
    return optimizer.learning_rate * factor(optimizer.schedule, optimizer.schedule_points, env_steps / trainer.total_timesteps)


def coefficient_factors(trainer: TrainerSettings, losses: Mapping[str, LossDescriptor], env_steps: int) -> Factors:
    """What the coefficients of the next learner step are multiplied by; those without a schedule are left out.

    Args:
        trainer: has the schedules and the budget.
        losses: the plan's losses by name. `LossDescriptor.schedule` counts where the settings name no schedule of the loss.
        env_steps: the env steps that have been trained on.

    Raises:
        SettingsError: if a schedule names neither one of these losses nor a setting that is one of their coefficients.
    """
    done = env_steps / trainer.total_timesteps
    factors: Factors = {
        (name, ALL_TERMS): factor(loss.schedule, (), done)
        for name, loss in losses.items()
        if loss.schedule and name not in trainer.coef_schedules
    }
    places = places_of(losses)
    for name, schedule in trainer.coef_schedules.items():
        if name not in places:
            raise SettingsError(
                f"trainer.coef_schedules.{name} names no coefficient of this run's losses; use one of {', '.join(places)}"
            )
        shape, points = (schedule, ()) if isinstance(schedule, str) else ("piecewise", schedule)
        factors[places[name]] = factor(shape, points, done)
    return factors


def schedule_coefficients(context: Context, losses: Mapping[str, LossDescriptor], env_steps: int) -> None:
    """Set the factors of the next learner step; the arguments are those of `coefficient_factors`."""
    context.scheduled.update(coefficient_factors(context.trainer, losses, env_steps))


def places_of(losses: Mapping[str, LossDescriptor]) -> dict[str, tuple[str, str]]:
    """What a schedule may be given to: a loss, or a setting such as `ent_coef`, which is the coefficient of one term."""
    places = {name: (name, ALL_TERMS) for name in losses}
    for name, loss in losses.items():
        for term, path in loss.coefficients.items():
            places.setdefault(path.rpartition(".")[2], (name, term))
    return places


def check_points(points: Sequence[tuple[float, float]], path: str) -> None:
    """Check a piecewise schedule.

    Raises:
        SettingsError: if there are no points, their fractions do not rise from 0 to at most 1, or a factor is negative.
    """
    fractions, values = [at for at, _ in points], [value for _, value in points]
    rising = all(earlier < later for earlier, later in itertools.pairwise(fractions))
    if not points or not rising or fractions[0] < 0 or fractions[-1] > 1 or min(values) < 0:
        raise SettingsError(
            f"{path} must be a list of [fraction of the budget, factor], fractions rising within 0..1 and factors of at "
            f"least 0, such as [[0, 1], [0.5, 0.1]], got {[list(point) for point in points]}"
        )


def check_schedules(trainer: TrainerSettings, losses: Mapping[str, LossDescriptor]) -> None:
    """Check all schedules of a run.

    Raises:
        SettingsError: if one is invalid, or names no coefficient of the run.
    """
    optimizer = trainer.optimizer
    if optimizer.schedule == "piecewise":
        check_points(optimizer.schedule_points, "trainer.optimizer.schedule_points")
    elif optimizer.schedule_points:
        raise SettingsError(
            "trainer.optimizer.schedule_points needs trainer.optimizer.schedule=piecewise, got "
            f"{optimizer.schedule}; set it, or leave the points empty"
        )
    for name, schedule in trainer.coef_schedules.items():
        if not isinstance(schedule, str):
            check_points(schedule, f"trainer.coef_schedules.{name}")
    coefficient_factors(trainer, losses, 0)
