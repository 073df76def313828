"""Which trajectories are drawn from the buffer, and what a draw that favours some of them makes each of them count for.

Source: Schaul et al. 2016, arXiv:1511.05952, the proportional variant.
"""

from __future__ import annotations

import numpy as np

from protocol.data.trajectory import Array

LEAST = 1e-6
"""Added to every priority, so that a trajectory from which there is nothing to learn now may still be drawn."""


def chances(priorities: Array, exponent: float) -> Array:
    """In what proportion trajectories are drawn, `(priority + LEAST) ** exponent`.

    Args:
        priorities: 0 or more; NaN where none is known. It counts as the highest priority, so the row is soon drawn.
        exponent: alpha; 0 draws all alike.
    """
    unknown = np.isnan(priorities)
    if unknown.any():
        priorities = np.where(unknown, 1.0 if unknown.all() else np.nanmax(priorities), priorities)
    result: Array = (priorities + LEAST) ** exponent
    return result


def draw(chance: Array, rows: int, generator: np.random.Generator) -> Array:
    """Draw different places one after the other, each time in proportion to the chances of those that are left.

    The first of independent clocks to ring is i with probability `rate_i / sum of rates`, and what the others show does not
    depend on it: so the order in which clocks with these rates ring is that draw.

    Args:
        chance: of each place, above 0; any sum.
        rows: how many are drawn.
        generator: decides.

    Returns:
        The places, in the order of the draw.
    """
    rings = generator.standard_exponential(len(chance)) / chance
    first = np.argpartition(rings, rows - 1)[:rows] if rows < len(chance) else np.arange(len(chance))
    drawn: Array = first[np.argsort(rings[first])]
    return drawn


def importance(chance: Array, drawn: Array, exponent: float) -> Array:
    """What each drawn trajectory counts for: `(1 / (N P(i))) ** exponent`, divided by the largest of them.

    Args:
        chance: of all N places, in any proportion.
        drawn: places.
        exponent: beta; 0 lets each count for 1, 1 makes up for the whole of the draw's preference.
    """
    if not len(drawn):
        return np.ones(0)
    # N and the sum of the chances stand in all of them alike, so the division takes them away.
    result: Array = (chance[drawn].min() / chance[drawn]) ** exponent
    return result
