"""From sums on the device to numbers with names: means, shares, explained variance, and JSON without NaN."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.ranks.reduce import OneRank
from learner.reporting.measurements import (
    LossReport,
    Measurements,
    TermReport,
    explained_variance,
    finite_mean,
    masked_means,
    plain,
)
from learner.update.updater import Record
from tests.learner.worlds import inputs_of, learn, make_batch, make_spec, make_trainer, make_updater_of

NAN = float("nan")
KEYS = (("critic", "value"), ("actor", "policy"), ("actor", "entropy"), ("actor", "clipped"))
COEFS = {("critic", "value"): 0.5, ("actor", "policy"): 1.0, ("actor", "entropy"): -0.01}


def record(*updates: list[list[float]], **more: object) -> Record:
    made = Record(keys=KEYS, sums=[torch.tensor(update) for update in updates], norms=[torch.tensor(2.0)] * len(updates))
    for name, value in more.items():
        setattr(made, name, value)
    return made


def measurements() -> Measurements:
    return Measurements(["critic", "actor"], OneRank())


def test_terms_are_means_of_masked_means_and_losses_their_weighed_sums() -> None:
    # Two updates. critic.value: 6 / 2 = 3 and 10 / 2 = 5, mean 4, times 0.5 is 2. actor.policy: -1 and -3, mean -2;
    # entropy: 100 and 200, mean 150, times -0.01 is -1.5; together -3.5. Shares 2 / 5.5 and 3.5 / 5.5.
    made = measurements()
    made.add(record([[6, -2, 200, 1], [2, 2, 2, 2]], [[10, -6, 400, 2], [2, 2, 2, 2]]))
    report = made.report(COEFS)
    critic, actor = report.losses["critic"], report.losses["actor"]
    assert (critic.weighted, critic.raw, critic.coef) == (2.0, 4.0, 0.5)
    assert actor.terms["policy"] == TermReport(-2.0, 1.0)
    assert actor.terms["entropy"].weighted == -1.5
    assert actor.weighted == -3.5
    assert actor.statistics == {"clipped": 0.75}
    assert critic.share == pytest.approx(2 / 5.5)
    assert actor.share == pytest.approx(3.5 / 5.5)
    assert (report.updates, report.skipped, report.gradient_norm) == (2, 0, 2.0)
    assert not report.gradients_measured
    assert report.update_means["critic", "value"].tolist() == [3, 5]
    assert set(report.update_means) == set(COEFS)


def test_a_losss_coefficient_is_its_terms_largest_and_raw_times_it_is_what_is_added() -> None:
    loss = LossReport({"a": TermReport(4.0, 0.5), "b": TermReport(10.0, -2.0)}, {})
    assert (loss.coef, loss.weighted, loss.raw) == (2.0, -18.0, -9.0)
    off = LossReport({"a": TermReport(4.0, 0.0), "b": TermReport(10.0, 0.0)}, {})
    assert (off.coef, off.weighted, off.raw) == (0.0, 0.0, 14.0)


def test_gradient_norms_have_shares_and_stay_until_they_are_measured_again() -> None:
    made = measurements()
    made.add(record([[1, 1, 1, 1], [1, 1, 1, 1]], gradients=torch.tensor([[3.0, 0.5], [1.0, -0.25]])))
    report = made.report(COEFS)
    assert report.gradients_measured
    critic = report.losses["critic"]
    assert (critic.gradient_norm, critic.gradient_share, critic.gradient_cosine) == (3.0, 0.75, 0.5)
    made.add(record([[1, 1, 1, 1], [1, 1, 1, 1]]))
    later = made.report(COEFS)
    assert not later.gradients_measured
    assert later.losses["actor"].gradient_share == 0.25


def test_before_any_measurement_gradients_are_unknown() -> None:
    made = measurements()
    made.add(record([[1, 1, 1, 1], [1, 1, 1, 1]]))
    critic = made.report(COEFS).losses["critic"]
    assert math.isnan(critic.gradient_norm)
    assert math.isnan(critic.gradient_share)


def test_several_learner_steps_make_one_report_with_the_last_ones_gradients() -> None:
    made = measurements()
    made.add(record([[2, 0, 0, 0], [1, 1, 1, 1]], gradients=torch.tensor([[9.0, 0.0], [1.0, 0.0]]), skipped=1))
    made.add(record([[4, 0, 0, 0], [1, 1, 1, 1]], gradients=torch.tensor([[3.0, 0.0], [1.0, 0.0]]), skipped=2))
    report = made.report(COEFS)
    assert (report.losses["critic"].terms["value"].raw, report.updates, report.skipped) == (3.0, 2, 3)
    assert report.losses["critic"].gradient_norm == 3.0
    assert made.records == []


def test_batch_statistics_go_to_their_loss_or_stand_by_node() -> None:
    made = measurements()
    keys = (("critic", "spread"), ("returns", "target"))
    made.add(record([[1, 1, 1, 1], [1, 1, 1, 1]], batch_keys=keys, batch_sums=torch.tensor([[6.0, 5.0], [3.0, 2.0]])))
    report = made.report(COEFS)
    assert report.losses["critic"].statistics["spread"] == 2.0
    assert report.statistics == {"returns.target": 2.5}


def test_sums_and_counts_of_all_ranks_make_the_mean() -> None:
    # Here 6 over 2 steps, elsewhere 1 over 1 of everything: (6 + 1) / (2 + 1).
    class Other:
        world_size = 2

        def sum(self, values: Tensor) -> Tensor:
            return values + 1

    made = Measurements(["critic", "actor"], Other())
    made.add(record([[6, 0, 0, 0], [2, 1, 1, 1]]))
    assert made.report(COEFS).losses["critic"].terms["value"].raw == pytest.approx(7 / 3)


def test_a_statistic_that_counted_in_no_update_is_unknown_and_one_that_did_in_some_is_their_mean() -> None:
    made = measurements()
    made.add(record([[1, 1, 1, 0], [1, 1, 1, 0]], [[1, 1, 1, 3], [1, 1, 1, 2]]))
    assert made.report(COEFS).losses["actor"].statistics["clipped"] == 1.5
    assert math.isnan(finite_mean(np.array([NAN, NAN])))
    assert np.isnan(masked_means(np.array([[[1.0], [0.0]]]))).all()


def moments(target: list[float], error: list[float]) -> dict[str, float]:
    t, e = np.array(target), np.array(error)
    return {
        "returns.target": float(t.mean()),
        "returns.target_squared": float((t**2).mean()),
        "returns.error": float(e.mean()),
        "returns.error_squared": float((e**2).mean()),
    }


@pytest.mark.parametrize(
    ("target", "error", "explained", "variance"),
    [
        # Var(R) of 1, 3 is 1; errors 0.5, -0.5 have variance 0.25: 0.75. A constant error explains all: it is a bias.
        ([1, 3], [0.5, -0.5], 0.75, 1.0),
        ([1, 3], [5, 5], 1.0, 1.0),
        ([1, 3], [2, -2], -3.0, 1.0),
    ],
)
def test_explained_variance_by_hand(target: list[float], error: list[float], explained: float, variance: float) -> None:
    assert explained_variance(moments(target, error)) == pytest.approx((explained, variance))


def test_explained_variance_is_unknown_where_targets_do_not_vary_or_were_not_measured() -> None:
    constant = explained_variance(moments([2, 2], [1, -1]))
    assert math.isnan(constant[0])
    assert constant[1] == 0
    assert all(math.isnan(number) for number in explained_variance({}))


def test_explained_variance_of_a_real_batch_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    updater = make_updater_of(make_trainer(), spec)
    made = Measurements(updater.plan.losses, OneRank())
    batch = make_batch(spec, absent=True)
    values = updater.objective.prepare(inputs_of(updater, batch))
    monkeypatch.setattr(updater.objective, "prepare", lambda _inputs: values)
    made.add(learn(updater, batch))
    target = values["value_target_BT"].numpy()[batch.valid].astype(np.float64)
    error = target - values["old_value_BT1"].numpy()[:, :-1][batch.valid]
    explained, variance = explained_variance(made.report(updater.objective.coefs).statistics)
    assert explained == pytest.approx(1 - error.var() / target.var(), abs=1e-4)
    assert variance == pytest.approx(target.var(), rel=1e-4)


def test_a_loss_is_written_as_a_flat_mapping_with_its_terms() -> None:
    loss = LossReport({"kl": TermReport(2.0, 0.5)}, {"adv_std": 0.25}, share=0.1)
    written = loss.to_dict()
    assert written["weighted"] == 1.0
    assert (written["kl"], written["adv_std"], written["share"]) == (2.0, 0.25, 0.1)
    assert written["terms"] == {"kl": {"raw": 2.0, "coef": 0.5, "weighted": 1.0}}


def test_numbers_that_are_not_finite_become_null_in_json() -> None:
    mixed = {"a": NAN, "b": [1.0, float("inf")], "c": (np.float32(2), {"d": -float("inf")}), "e": "text", "f": None, "g": 3}
    assert json.loads(json.dumps(plain(mixed), allow_nan=False)) == {
        "a": None,
        "b": [1.0, None],
        "c": [2.0, {"d": None}],
        "e": "text",
        "f": None,
        "g": 3,
    }
