"""What --param takes, and what it refuses in one line."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.sweep.space import Parameter, parse_parameter
from oatmill.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer.epochs=1..8", Parameter("trainer.epochs", low=1, high=8)),
        ("trainer.gamma=0.9..0.999", Parameter("trainer.gamma", low=0.9, high=0.999)),
        ("a.b=1e-4..1e-2:log", Parameter("a.b", low=1e-4, high=1e-2, log=True)),
        ("agent.core=none,gru", Parameter("agent.core", ("none", "gru"))),
        ("agent.hidden_sizes=[[64], [64, 64]]", Parameter("agent.hidden_sizes", ([64], [64, 64]))),
        ("trainer.normalize_returns=true,false", Parameter("trainer.normalize_returns", (True, False))),
    ],
)
def test_ranges_and_choices(text: str, expected: Parameter) -> None:
    assert parse_parameter(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer.epochs", "--param must be KEY=LOW..HIGH"),
        ("trainer.epochs=3", "a range or at least two values"),
        ("trainer.epochs=8..1", "the first number must be below the second, got 8 to 1"),
        ("trainer.epochs=a..b", "--param must be KEY=LOW..HIGH"),
        ("trainer.gamma=0..1:log", "must start above 0, got 0"),
    ],
)
def test_what_is_no_range_is_one_line(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_parameter(text)


@pytest.mark.parametrize(("text", "drawn"), [("x=1..8", 3), ("x=0.1..0.2", 0.15), ("x=[[64], [64, 64]]", [64, 64])])
def test_a_drawn_value_is_the_settings_value_again(text: str, drawn: Any) -> None:
    pytest.importorskip("optuna", reason="needs oatmill[sweep]")
    parameter = parse_parameter(text)
    distribution = parameter.distribution()
    if parameter.choices:
        assert parameter.value(distribution.choices[parameter.choices.index(drawn)]) == drawn
    else:
        assert parameter.value(drawn) == drawn
        assert (distribution.low, distribution.high) == parameter.ends
