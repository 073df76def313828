"""What the doctor makes of a model that agrees with the returns, and of one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.doctor.cmpo import model
from deploy.doctor.diagnosis import MEANINGS, auxiliaries
from deploy.doctor.examined_run import ExaminedRun
from deploy.doctor.findings import Finding
from learner.reporting.red_flags import FLAGS

SETTINGS = {"trainer.total_timesteps": 1000.0, "trainer.losses.cmpo.kl_coef": 0.3}


def run_with(agreement: float | None, *, share: float, env_steps: int = 900) -> ExaminedRun:
    cmpo: dict[str, Any] = {"gradient_share": share, "advantage_agreement": agreement}
    return ExaminedRun("a run", ({"env_steps": env_steps, "losses": {"cmpo": cmpo}},), SETTINGS)


def test_every_red_flag_has_a_meaning() -> None:
    assert MEANINGS.keys() == set(FLAGS)


def found_by_model(agreement: float | None, **changes: Any) -> list[Finding]:
    return list(model(run_with(agreement, **changes)))


def test_a_model_that_does_not_agree_is_wrong_where_cmpo_pushes() -> None:
    (found,) = found_by_model(0.01, share=0.3)
    assert found.wrong
    assert found.tries == ("trainer.losses.cmpo.kl_coef=0.03",)
    assert "agree on actions by 0.01" in found.text


@pytest.mark.parametrize(
    ("agreement", "changes"),
    [(0.25, {"share": 0.3}), (0.01, {"share": 0.05}), (0.01, {"share": 0.3, "env_steps": 10})],
    ids=["it agrees", "CMPO hardly pushes", "the run has just begun"],
)
def test_nothing_is_wrong_otherwise(agreement: float, changes: dict[str, Any]) -> None:
    (found,) = found_by_model(agreement, **changes)
    assert not found.wrong
    assert found.tries == ()


def test_nothing_is_said_without_a_model() -> None:
    assert found_by_model(None, share=0.3) == []


@pytest.mark.parametrize(
    ("agreement", "tries"), [(0.2, ("trainer.losses.cmpo.kl_coef=3",)), (0.01, ()), (None, ("trainer.losses.cmpo.kl_coef=3",))]
)
def test_a_coefficient_is_not_raised_where_more_of_it_would_harm(agreement: float | None, tries: tuple[str, ...]) -> None:
    found = [finding for finding in auxiliaries(run_with(agreement, share=0.001)) if finding.topic == "cmpo"]
    assert [finding.tries for finding in found] == [tries]
