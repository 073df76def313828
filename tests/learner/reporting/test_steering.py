"""Coefficients that move while a run goes on: halved where a flag blames, or towards a share of the gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.checkpoints.files import restore, save
from learner.loss_descriptor import describe
from learner.progress import Progress
from learner.reporting.red_flags import WINDOW
from learner.reporting.run_files import RunFiles
from learner.reporting.steering import HALVINGS, Move, Steering
from oatmill.files.run_files import EVENTS_FILE
from tests.learner.worlds import inputs_of, make_batch, make_spec, make_trainer, make_updater_of, weigh

LOSSES = ("ppo_critic", "cmpo", "ppo_actor", "dynamics", "muesli_model")
CALM = {"ppo_critic": 0.4, "cmpo": 0.1, "ppo_actor": 0.3, "dynamics": 0.1, "muesli_model": 0.1}


def steering(changes: dict[str, Any], losses: tuple[str, ...] = LOSSES) -> Steering:
    return Steering(make_trainer("full", changes), describe(losses), {})


def report(steered: Steering, blamed: dict[str, str] | None = None, shares: dict[str, float] | None = None) -> list[Move]:
    """One report on one rank."""
    return steered.take(steered.wanted(blamed or {}, shares), blamed or {})


def reducing() -> Steering:
    return steering({"on_red_flag": "reduce"})


def balancing(**changes: Any) -> Steering:
    return steering({"balance": "gradient_share"} | changes)


def test_nothing_moves_unless_it_is_asked_for() -> None:
    for changes in ({}, {"on_red_flag": "stop"}):
        steered = steering(changes)
        assert not steered.active
        assert report(steered, {"cmpo": "why"}, CALM | {"cmpo": 0.9}) == []
        assert set(steered.scales.values()) == {1.0}
    assert reducing().active
    assert balancing().active
    assert not steering({"on_red_flag": "reduce"}, ("ppo_critic", "ppo_actor")).active, "there is nothing to reduce"


@pytest.mark.parametrize("loss", ["cmpo", "dynamics", "muesli_model"])
def test_a_blamed_auxiliary_loss_is_halved(loss: str) -> None:
    steered = reducing()
    assert report(steered, {loss: "it is over 10 times the median"}) == [
        Move(loss, 0.5, "halved: it is over 10 times the median")
    ]
    assert steered.scales[loss] == 0.5
    assert sum(steered.scales.values()) == 2.5, "the other two stay"


def test_the_critic_and_the_policy_gradient_are_never_touched() -> None:
    steered = reducing()
    assert report(steered, {"ppo_critic": "why", "ppo_actor": "why", "muesli_pg": "why"}) == []
    assert set(steered.scales) == {"cmpo", "dynamics", "muesli_model"}


def test_a_halving_waits_until_a_window_of_reports_has_seen_the_last_one() -> None:
    steered = reducing()
    halved = [number for number in range(1, 2 * WINDOW + 2) if report(steered, {"cmpo": "why"})]
    assert halved == [1, 1 + WINDOW, 1 + 2 * WINDOW]
    assert steered.scales["cmpo"] == 1 / 8


def test_halving_ends_where_nothing_is_left() -> None:
    steered = reducing()
    for _ in range((HALVINGS + 3) * WINDOW):
        report(steered, {"cmpo": "why"})
    assert steered.scales["cmpo"] == 2.0**-HALVINGS


def test_what_is_blamed_no_longer_is_not_halved_again() -> None:
    steered = reducing()
    report(steered, {"cmpo": "why"})
    for _ in range(3 * WINDOW):
        assert report(steered) == []
    assert steered.scales["cmpo"] == 0.5


def test_balance_moves_half_of_the_way_in_logarithms() -> None:
    # Target 0.1: a share of 0.05 wants twice as much, so sqrt 2 now; one of 0.2 the reverse; dynamics is at its bound.
    steered = balancing()
    report(steered, shares=CALM | {"cmpo": 0.05, "muesli_model": 0.2, "dynamics": 0.05})
    assert steered.scales == pytest.approx({"cmpo": 2**0.5, "muesli_model": 2**-0.5, "dynamics": 1.0})


def test_one_measurement_moves_by_a_factor_of_two_at_most() -> None:
    steered = balancing()
    report(steered, shares=CALM | {"cmpo": 1e-6, "muesli_model": 0.99, "dynamics": 0.99})
    assert steered.scales == {"cmpo": 2.0, "muesli_model": 0.5, "dynamics": 0.5}


def test_a_coefficient_stays_within_the_limit_and_its_own_bounds() -> None:
    steered = balancing(balance_limit=5.0)
    for _ in range(20):
        report(steered, shares=CALM | {"cmpo": 1e-6, "muesli_model": 0.99, "dynamics": 1e-6})
    assert steered.scales == {"cmpo": 5.0, "muesli_model": 0.2, "dynamics": 1.0}
    halved = {"losses.dynamics.returns_pred_coef": 0.25, "losses.dynamics.reward_pred_coef": 0.5}
    assert balancing(**halved).highest("dynamics") == 2.0, "0.5 may become 1, the bound of the setting"
    assert balancing(**halved, balance_limit=1.5).highest("dynamics") == 1.5


@pytest.mark.parametrize("share", [0.0, float("nan"), float("inf")])
def test_a_share_that_says_nothing_moves_nothing(share: float) -> None:
    steered = balancing()
    report(steered, shares=CALM | {"cmpo": share})
    assert steered.scales["cmpo"] == 1.0


def test_without_a_new_measurement_nothing_moves() -> None:
    steered = balancing()
    assert report(steered) == []
    assert set(steered.scales.values()) == {1.0}


def test_balance_reaches_the_share_that_was_asked_for() -> None:
    # Norms 1 and 1 for PPO, 1e-3 for the auxiliary losses at scale 1; dynamics cannot rise. Aim 0.2 each for the other two.
    steered = balancing(balance_share=0.2)
    for _ in range(60):
        norms = {"ppo_critic": 1.0, "ppo_actor": 1.0} | {loss: 1e-3 * steered.scales.get(loss, 1.0) for loss in steered.losses}
        total = sum(norms.values())
        report(steered, shares={loss: norm / total for loss, norm in norms.items()})
    norms = {loss: 1e-3 * scale for loss, scale in steered.scales.items()}
    total = 2 + sum(norms.values())
    assert norms["cmpo"] / total == pytest.approx(0.2, rel=1e-3)
    assert norms["muesli_model"] / total == pytest.approx(0.2, rel=1e-3)


def test_a_move_is_said_once_it_is_worth_a_line() -> None:
    # 1.1 a report: 1.21 after two is not worth saying, 1.331 after three is; then counting begins anew.
    steered = balancing()
    shares = CALM | {"cmpo": 0.1 / 1.1**2}
    said = [report(steered, shares=shares) for _ in range(4)]
    assert [len(moves) for moves in said] == [0, 0, 1, 0]
    (move,) = said[2]
    assert (move.loss, move.why) == ("cmpo", "0.1 of the gradient")
    assert move.scale == pytest.approx(1.1**3)


def test_scales_multiply_coefficients_and_nothing_else() -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(), spec)
    values = updater.objective.prepare(inputs_of(updater, make_batch(spec)))
    before = weigh(updater, values)
    coefs = dict(updater.objective.coefs)
    updater.context.scales.update({"dynamics": 0.25})
    after = weigh(updater, values)
    for loss, weighted in before.losses.items():
        torch.testing.assert_close(after.losses[loss], weighted * (0.25 if loss == "dynamics" else 1.0))
    assert torch.equal(before.sums, after.sums), "raw values stay what they are"
    for (loss, name), coef in updater.objective.coefs.items():
        assert coef == coefs[loss, name] * (0.25 if loss == "dynamics" else 1.0)


def test_scales_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    spec = make_spec()
    first, second = (make_updater_of(make_trainer(), spec) for _ in range(2))
    first.context.scales["cmpo"] = 0.125
    save(tmp_path, first, Progress(1, 10, 1, 0.5), keep=1)
    held = second.context.scales
    restore(tmp_path, second)
    assert held == {"cmpo": 0.125}, "the same dictionary, which the steering and the objective hold"


def test_a_resumed_run_says_no_move_that_was_said_before() -> None:
    trainer = make_trainer("full", {"on_red_flag": "reduce"})
    assert report(Steering(trainer, describe(LOSSES), {"cmpo": 0.125})) == []


def test_each_move_is_an_event(tmp_path: Path) -> None:
    run_files = RunFiles(tmp_path, 1.0, 100)
    run_files.note_moves([Move("cmpo", 0.5, "halved: why")], Progress(learner_step=7))
    (line,) = [json.loads(line) for line in (tmp_path / EVENTS_FILE).read_text().splitlines()]
    assert line.pop("time") > 0
    assert line == {"event": "coefficient_moved", "loss": "cmpo", "scale": 0.5, "why": "halved: why", "learner_step": 7}
