"""Text in observations: a fixed number of places, in which words and pairs of neighbouring words are counted."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from actors.environments.boundary import RawSpace, in_short
from protocol.data.trajectory import Array

PLACES = 128
"""For missions of some dozen words out of some dozen: two that share all their places are rare."""
WORD = re.compile(r"\w+")


@lru_cache(maxsize=1024)
def counts_of(text: str) -> Array:
    """How often each word, and each pair of neighbouring words, comes: `[PLACES]` bytes, by a hash of the word (CRC-32).

    Source: Weinberger et al. 2009, "Feature hashing for large scale multitask learning", arXiv:0902.2206.
    """
    words = WORD.findall(text.lower())
    counts = np.zeros(PLACES, np.int64)
    for term in (*words, *(f"{one} {other}" for one, other in pairwise(words))):
        counts[zlib.crc32(term.encode()) % PLACES] += 1
    return counts.clip(max=255).astype(np.uint8)


class RawText(RawSpace):
    """A text, kept as `counts_of` gives it."""

    def store(self, values: Any, into: Array, row: int, what: str = "an observation") -> None:
        """Write one text's counts into a row.

        Raises:
            ValueError: if it is no text.
        """
        if not isinstance(values, str):
            raise ValueError(f"expected {what} of text, got {in_short(values)}")  # noqa: TRY004 -- like all that is refused here
        into[row] = counts_of(values)

    def batch(self, values: Any, rows: int, what: str = "observations") -> Array:
        """The counts of many texts."""
        texts = list(values)
        if len(texts) != rows:
            raise ValueError(f"expected {rows} {what} of text, got {len(texts)}")
        counts = self.empty(rows)
        for row, text in enumerate(texts):
            self.store(text, counts, row, what)
        return counts


def raw_text() -> RawText:
    """The space of one text."""
    return RawText("text", (PLACES,), np.dtype(np.uint8))
