"""Sampling from the replay buffer by priority, and the importance weights that correct for it.

Source: Schaul et al. 2016, arXiv:1511.05952, the proportional variant.
"""

from __future__ import annotations

import numpy as np

from protocol.data.trajectory import Array

LEAST = 1e-6
"""Added to every priority, so that a trajectory with priority 0 can still be drawn."""


def chances(priorities: Array, exponent: float) -> Array:
    """Return the unnormalised probabilities of being drawn, `(priority + LEAST) ** exponent`.

    Args:
        priorities: numbers of at least 0, or NaN for unknown ones. An unknown priority counts as
            the highest one, so that the row is soon drawn.
        exponent: alpha; 0 gives all the same probability.
    """
    unknown = np.isnan(priorities)
    if unknown.any():
        priorities = np.where(unknown, 1.0 if unknown.all() else np.nanmax(priorities), priorities)
    result: Array = (priorities + LEAST) ** exponent
    return result


def draw(chance: Array, rows: int, generator: np.random.Generator) -> Array:
    """Draw different places one after the other, each in proportion to the chances of the remaining ones.

    This uses independent exponential clocks: the first one to ring is i with probability `rate_i /
    sum of rates`, independently of the others. So the order in which they ring is such a draw.

    Args:
        chance: the chance of each place, above 0; any sum.
        rows: the number of places to draw.
        generator: the random generator.

    Returns:
        The places, in the order in which they were drawn.
    """
    rings = generator.standard_exponential(len(chance)) / chance
    first = np.argpartition(rings, rows - 1)[:rows] if rows < len(chance) else np.arange(len(chance))
    drawn: Array = first[np.argsort(rings[first])]
    return drawn


def importance(chance: Array, drawn: Array, exponent: float) -> Array:
    """Return the importance weights of drawn trajectories, `(1 / (N P(i))) ** exponent`, with maximum 1.

    Args:
        chance: the chances of all N places, in any scale.
        drawn: the drawn places.
        exponent: beta; 0 gives every trajectory the weight 1, and 1 corrects for the sampling
            fully.
    """
    if not len(drawn):
        return np.ones(0)
    # N and the sum of the chances are common factors, so they cancel.
    result: Array = (chance[drawn].min() / chance[drawn]) ** exponent
    return result
