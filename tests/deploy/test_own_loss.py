"""A loss of one's own in the commands that read a run: the doctor, the comparison's verdict and pictures, and the plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.comparison.results import ArmResult
from deploy.comparison.verdict import idle
from deploy.curves import draw, read_descriptors
from deploy.doctor.diagnosis import auxiliaries, dominance
from deploy.doctor.examined_run import ExaminedRun
from deploy.doctor.findings import Finding
from learner.loss_descriptor import LOSSES_FILE, LossDescriptor, describe, to_json

PATH = "trainer.losses.dynamics.reward_pred_coef"
SETTINGS = {"trainer.total_timesteps": 1000.0, PATH: 0.5}


def run_with(share: float, descriptor: LossDescriptor | None = None) -> ExaminedRun:
    losses = {
        "ppo_critic": {"share": 0.02, "gradient_share": 1 - share},
        "entropy_floor": {"share": 0.98, "gradient_share": share},
    }
    own = {"entropy_floor": descriptor} if descriptor else {}
    return ExaminedRun("a run", ({"env_steps": 900, "losses": losses},), SETTINGS, own=own)


def finding(run: ExaminedRun) -> Finding:
    (found,) = auxiliaries(run)
    return found


def test_a_loss_that_dominates_the_gradient_is_wrong() -> None:
    found = finding(run_with(0.8))
    assert (found.wrong, found.topic) == (True, "entropy_floor")
    assert found.text == "entropy_floor has 80% of the gradient on the trunk; an auxiliary loss should have 5 to 20 %"
    assert found.tries == ("trainer.balance=gradient_share",), "its coefficient is in its own code"


def test_a_loss_with_almost_no_gradient_is_noted() -> None:
    found = finding(run_with(0.001))
    assert not found.wrong
    assert "has 0.10% of the gradient on the trunk: it has almost no effect on training" in found.text


def test_its_settings_are_scaled_where_its_descriptor_names_them() -> None:
    descriptor = LossDescriptor("entropy_floor", coefficients={"missing": PATH}, largest_coefficient=1.0)
    assert finding(run_with(0.001, descriptor)).tries == (f"{PATH}=1",), "ten times, up to the bound"


def test_a_loss_that_is_not_auxiliary_is_left_alone() -> None:
    assert list(auxiliaries(run_with(0.8, LossDescriptor("entropy_floor", role="critic")))) == []


def test_a_loss_that_dominates_by_value_alone_is_a_note() -> None:
    (found,) = dominance(run_with(0.001))
    assert not found.wrong
    assert found.text.endswith("entropy_floor has only 0.1% of the gradient: most of its value is a constant")
    assert found.text.startswith("entropy_floor is largest by value (98% of the objective), ppo_critic by gradient (100% ")


def test_the_verdict_names_it_when_it_has_no_effect() -> None:
    losses = {"ppo_critic": {"gradient_share": 0.0001}, "entropy_floor": {"gradient_share": 0.001}}
    arm = ArmResult(*[None] * 13)  # type: ignore[arg-type]
    object.__setattr__(arm, "losses", losses)
    object.__setattr__(arm, "descriptors", describe(losses))
    assert "Share of the gradient on the trunk: entropy_floor 0.10%. With this coefficient" in idle(arm)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a": 1}', '{"a": {"name": "a", "color": "red"}}'])
def test_a_damaged_file_of_descriptors_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / LOSSES_FILE).write_text(content)
    assert read_descriptors(tmp_path) == {}


def test_the_plot_draws_it_in_its_own_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn = {}
    plot = Axes.plot

    def noted(axes: Axes, *args: object, **options: object) -> object:
        if "color" in options:
            drawn[options["label"]] = options["color"]
        return plot(axes, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Axes, "plot", noted)
    losses = {name: {"weighted": 1.0, "gradient_norm": 2.0} for name in ("ppo_critic", "entropy_floor", "other")}
    lines = [{"learner_step": step, "env_steps": 10 * step, "losses": losses} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = {"entropy_floor": LossDescriptor("entropy_floor", color="#123456")}
    (tmp_path / LOSSES_FILE).write_text(json.dumps(to_json(describe(losses, own))))
    draw(tmp_path)
    assert drawn == {"ppo_critic": "#3b6fb6", "entropy_floor": "#123456", "other": "#8a6d3b"}
