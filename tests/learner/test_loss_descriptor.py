"""Descriptors of losses: the built-in ones agree with the code, and a loss of one's own is treated like them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest
from torch import Tensor

from learner.loss import Choice, Context, Loss, Question, Statistic, Term, Terms
from learner.loss_descriptor import (
    BUILT_IN,
    LOSSES_FILE,
    PALETTE,
    LossDescriptor,
    describe,
    from_json,
    loss_colors,
    to_json,
)
from learner.plan import LOSSES, make_plan
from learner.ranks.reduce import OneRank
from learner.reporting.measurements import Measurements, StepReport
from learner.reporting.metrics import LearnerMetrics
from learner.reporting.red_flags import FLAGS, WINDOW, RedFlags
from learner.reporting.run_files import RunFiles, observe
from learner.reporting.steering import Steering
from learner.settings import LossSettings, TrainerSettings
from oatmill.errors import UserError
from tests.learner.worlds import learn, make_batch, make_spec, make_trainer, make_updater_of

MODULE = "tests.learner.test_loss_descriptor"
OWN = LossDescriptor(
    "pull",
    "Pulls logits to zero.",
    kl="distance",
    policy_ratio=(0.0, 1e-9),
    terms=("square",),
    gauges={"pull_distance": ("distance", "How far logits are from zero")},
    color="#123456",
)


class Pull(Loss):
    name = "pull"

    def __init__(self, context: Context) -> None:
        """Nothing to keep."""

    def compute(self, *, logits_BTA: Tensor, mask_BT: Tensor) -> Terms:
        square_BT = logits_BTA.float().square().sum(-1)
        return {
            "square": Term(100 + square_BT, mask_BT, 0.5),
            "distance": Statistic(square_BT.detach(), mask_BT),
        }


def choose(_question: Question) -> Choice:
    return Choice(Pull, descriptor=OWN)


def choose_plain(_question: Question) -> Choice:
    return Choice(Pull)


def choose_misnamed(_question: Question) -> Choice:
    return Choice(Pull, descriptor=replace(OWN, name="push"))


def trainer(how: str = "choose", **changes: object) -> TrainerSettings:
    return make_trainer("baseline", {"extra_losses": (f"{MODULE}:{how}",)} | changes)


def report_of(settings: TrainerSettings) -> StepReport:
    spec = make_spec()
    updater = make_updater_of(settings, spec)
    measurements = Measurements(updater.plan.losses, OneRank(), updater.plan.descriptors)
    measurements.add(learn(updater, make_batch(spec)))
    return measurements.report(updater.objective.coefs)


def test_every_built_in_loss_has_a_descriptor_in_the_order_of_the_plan() -> None:
    assert [choose.__module__.rpartition(".")[2] for choose in LOSSES] == list(BUILT_IN)
    assert set(BUILT_IN) == set(LossSettings.model_fields)
    assert len(set(loss_colors(BUILT_IN).values())) == len(BUILT_IN)
    assert all(descriptor.help for descriptor in BUILT_IN.values())


@pytest.mark.parametrize("arm", ["full", "paper"])
def test_coefficients_terms_and_bounds_are_those_of_the_code(arm: str) -> None:
    settings, spec = make_trainer(arm), make_spec()
    updater = make_updater_of(settings, spec)
    record = learn(updater, make_batch(spec))
    for name in updater.plan.losses:
        descriptor = BUILT_IN[name]
        assert {(name, term) for term in descriptor.terms} <= set(record.keys)
        for term, path in descriptor.coefficients.items():
            *groups, last = path.split(".")[1:]
            group = reduce(getattr, groups, settings)
            assert abs(updater.objective.coefs[name, term]) == getattr(group, last), path
            bounds = [entry.le for entry in type(group).model_fields[last].metadata if hasattr(entry, "le")]
            assert (bounds[0] if bounds else None) == descriptor.largest_coefficient, path


def test_descriptors_need_no_torch() -> None:
    code = "import sys, learner.loss_descriptor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_they_come_back_from_json_as_they_were() -> None:
    known = {**BUILT_IN, "pull": OWN}
    assert from_json(json.loads(json.dumps(to_json(known)))) == known
    with pytest.raises(ValueError, match="role"):
        from_json({"pull": {"name": "pull", "role": "none"}})


def test_a_colour_is_six_hexadecimal_digits() -> None:
    with pytest.raises(ValueError, match="the color of the loss pull must be #rrggbb, such as #8a6d3b, got 'red'"):
        replace(OWN, color="red")


def test_losses_without_a_colour_take_the_palettes_in_turn() -> None:
    colors = loss_colors(describe(["cmpo", "one", "two"]))
    assert colors == {"cmpo": BUILT_IN["cmpo"].color, "one": PALETTE[0], "two": PALETTE[1]}
    assert not set(PALETTE) & {descriptor.color for descriptor in BUILT_IN.values()}


def test_a_users_own_loss_is_auxiliary_unless_its_descriptor_says_otherwise() -> None:
    spec = make_spec()
    plans = {how: make_plan(trainer(how), spec.settings, spec.spaces.action) for how in ("choose", "choose_plain")}
    assert plans["choose"].descriptors["pull"] == OWN
    assert plans["choose_plain"].descriptors["pull"] == LossDescriptor("pull")
    assert LossDescriptor("pull").auxiliary
    assert list(plans["choose"].descriptors) == plans["choose"].losses


def test_a_descriptor_of_another_loss_raises_an_error() -> None:
    spec = make_spec()
    with pytest.raises(UserError, match="the descriptor of the loss pull is named push; give both the same name"):
        make_plan(trainer("choose_misnamed"), spec.settings, spec.spaces.action)


@pytest.mark.parametrize("how", ["choose", "choose_plain"])
def test_a_users_own_loss_is_steered(how: str) -> None:
    spec = make_spec()
    descriptors = make_plan(trainer(how), spec.settings, spec.spaces.action).descriptors
    halving = Steering(trainer(how, on_red_flag="reduce"), descriptors, {})
    (move,) = halving.take(halving.wanted({"pull": "why"}, None), {"pull": "why"})
    assert (move.loss, move.scale) == ("pull", 0.5)
    balancing = Steering(trainer(how, balance="gradient_share"), descriptors, {})
    assert balancing.active
    balancing.take(balancing.wanted({}, {"ppo_critic": 0.5, "ppo_actor": 0.4, "pull": 0.1 / 4}), {})
    assert balancing.scales == {"pull": pytest.approx(2.0)}


def test_steering_resumes_from_a_checkpoint_that_did_not_know_the_loss() -> None:
    steering = Steering(trainer(balance="gradient_share"), describe(["cmpo", "pull"]), {})
    steering.load({"reports": 3, "halved_at": {}, "said": {"cmpo": 2.0}})
    assert len(steering.take([1.0, 2.0], {})) == 2, "both differ from what was last written down"


def test_it_counts_by_its_kl_and_raises_flags_by_its_ratio() -> None:
    report = report_of(trainer())
    loss = report.losses["pull"]
    assert report.weighted_magnitude("pull") == pytest.approx(0.5 * loss.statistics["distance"])
    assert loss.weighted > 50, "with the constant"
    flags = RedFlags(descriptors=report.descriptors)
    seen = observe(report, {"nats": 1.0, "fraction": 0.5}, (0.5, 1.0), 0.5, {})
    for _ in range(WINDOW):
        raised = flags.update(seen)
    assert raised["muesli_ratio"].startswith("pull / ppo_actor is ")
    assert "pull" in flags.blamed


def test_it_is_exported() -> None:
    report = report_of(trainer())
    metrics = LearnerMetrics({}, {}, losses=report.descriptors)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"oatmill_{name}", labels)

    assert value("loss_gradient_share", loss="pull") == value("loss", loss="pull", term="square") == 0, "from the start"
    assert value("loss_info", loss="pull", role="auxiliary") == value("loss_info", loss="ppo_actor", role="policy") == 1
    metrics.report(
        report, dict.fromkeys(FLAGS, False), dict.fromkeys(("entropy_nats", "entropy_ratio", "explained_variance"), 0.5)
    )
    distance = report.losses["pull"].statistics["distance"]
    assert value("loss", loss="pull", term="kl") == value("pull_distance") == distance, "the dashboards' KL panel has it"
    assert value("loss_gradient_share", loss="pull") == report.losses["pull"].gradient_share


def test_a_run_folder_says_what_its_losses_are(tmp_path: Path) -> None:
    run_files = RunFiles(tmp_path, 1.0, 100)
    run_files.describe(describe(["ppo_actor", "pull"], {"pull": OWN}))
    assert from_json(json.loads((tmp_path / LOSSES_FILE).read_text()))["pull"] == OWN
    assert run_files.flags.descriptors["pull"] == OWN


def test_steps_that_target_kl_ended_early_are_counted() -> None:
    settings = make_trainer("baseline", {"losses.ppo_actor.target_kl": 1e-9})
    report = report_of(settings)
    assert report.stopped_early == 1
    assert report_of(make_trainer("baseline")).stopped_early == 0
    metrics, spec = LearnerMetrics({}, {}), make_spec()
    record = learn(make_updater_of(settings, spec), make_batch(spec))
    metrics.step(record, learning_rate=1e-3, version=1, progress=0.0)
    assert metrics.registry.get_sample_value("oatmill_learner_steps_stopped_early_total") == 1
