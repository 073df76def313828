"""Numbers in words, as people read them."""

from __future__ import annotations

import pytest

from runner.observer import counted, in_words


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "episode", "0 episodes"),
        (1, "episode", "1 episode"),
        (2000, "episode", "2,000 episodes"),
        (4, "minibatch", "4 minibatches"),
        (4, "epoch", "4 epochs"),
    ],
)
def test_what_is_counted_is_plural_unless_it_is_one(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (40.2, "40 s"),
        (98, "98 s"),
        (150, "2.5 minutes"),
        (5900, "98 minutes"),
        (7200, "2 hours"),
        (432_000, "120 hours"),
    ],
)
def test_a_duration_is_in_the_unit_that_it_needs(seconds: float, text: str) -> None:
    assert in_words(seconds) == text
