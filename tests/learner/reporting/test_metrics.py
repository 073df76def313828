"""The learner's Prometheus series: what a report leaves in them, and the endpoint that shows them."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agent.policy_head import GaussianHead
from learner.learner import Learner
from learner.loss_descriptor import BUILT_IN
from learner.progress import Progress
from learner.ranks.reduce import OneRank
from learner.reporting.measurements import Measurements, StepReport
from learner.reporting.metrics import LearnerMetrics
from learner.reporting.rank_reporting import RankReporting
from learner.reporting.red_flags import FLAGS
from learner.reporting.run_files import RunFiles
from learner.setup import LearnerConfig, make_updater
from learner.update.updater import Updater
from oatmill.process.metrics import oatmill_version
from oatmill.settings.base import MetricsSettings
from protocol.data.batch import Batch
from tests.learner.worlds import ONE, inputs_of, learn, make_batch, make_spec, make_trainer, make_updater_of

SUMMARY = {"entropy_nats": 1.0, "entropy_ratio": 0.9, "explained_variance": 0.5}


def make_report(arm: str = "full") -> StepReport:
    spec = make_spec()
    updater = make_updater_of(make_trainer(arm), spec)
    measurements = Measurements(updater.plan.losses, OneRank())
    measurements.add(learn(updater, make_batch(spec)))
    return measurements.report(updater.objective.coefs)


def value(metrics: LearnerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"oatmill_{name}", labels)


def test_every_series_exists_at_0_before_the_first_report() -> None:
    metrics = LearnerMetrics({}, {})
    for loss, descriptor in BUILT_IN.items():
        assert value(metrics, "loss_gradient_norm", loss=loss) == 0
        for term in descriptor.terms:
            assert value(metrics, "loss", loss=loss, term=term) == 0
    assert all(value(metrics, "red_flag", flag=flag) == 0 for flag in FLAGS)
    assert value(metrics, "up", role="learner") == 1
    versions = {"version": oatmill_version(), "python": platform.python_version(), "torch": torch.__version__}
    assert value(metrics, "build_info", **versions) == 1


def test_a_report_sets_gauges_and_adds_to_exact_counters() -> None:
    metrics, report = LearnerMetrics({}, {}), make_report()
    for _ in range(2):
        metrics.report(report, {flag: flag == "loss_spike" for flag in FLAGS}, SUMMARY)
    for name, loss in report.losses.items():
        assert value(metrics, "loss_share", loss=name) == loss.share
        assert value(metrics, "loss_gradient_norm", loss=name) == loss.gradient_norm
        for term, entry in loss.terms.items():
            assert value(metrics, "loss", loss=name, term=term) == entry.raw
            assert value(metrics, "loss_coefficient", loss=name, term=term) == entry.coef
            means = report.update_means[name, term]
            assert value(metrics, "loss_abs_sum_total", loss=name, term=term) == pytest.approx(2 * np.abs(means).sum())
            assert value(metrics, "loss_updates_total", loss=name, term=term) == 2 * len(means)
    assert value(metrics, "red_flag", flag="loss_spike") == 1
    assert value(metrics, "red_flag_reports_total", flag="loss_spike") == 2
    assert value(metrics, "red_flag_reports_total", flag="non_finite") == 0
    assert value(metrics, "gradient_norm") == report.gradient_norm
    assert value(metrics, "red_flag", flag="non_finite") == 0
    assert value(metrics, "policy_entropy_ratio") == 0.9
    assert value(metrics, "approx_kl") == report.losses["ppo_actor"].statistics["approx_kl"]
    assert value(metrics, "cmpo_kl") == report.losses["cmpo"].terms["kl"].raw


def test_a_report_without_cmpo_leaves_its_series_alone() -> None:
    metrics = LearnerMetrics({}, {})
    metrics.report(make_report("baseline"), dict.fromkeys(FLAGS, False), SUMMARY)
    assert value(metrics, "cmpo_kl") == 0


def log_stds_of(metrics: LearnerMetrics) -> list[float | None]:
    return [value(metrics, "policy_log_std", statistic=statistic) for statistic in ("mean", "min", "max")]


def reported(updater: Updater, batch: Batch) -> tuple[LearnerMetrics, StepReport]:
    """The series after one learner step."""
    measurements = Measurements(updater.plan.losses, OneRank())
    measurements.add(learn(updater, batch))
    metrics, report = LearnerMetrics({}, {}), measurements.report(updater.objective.coefs)
    metrics.report(report, dict.fromkeys(FLAGS, False), SUMMARY)
    return metrics, report


def test_the_log_std_is_that_of_the_policys_own_parameter_before_the_updates() -> None:
    updater = make_updater_of(make_trainer("baseline"), make_spec(sizes=(2,), factored=True, numbers=3))
    head = updater.context.model.policy
    assert isinstance(head, GaussianHead)
    assert head.log_std is not None
    with torch.no_grad():
        head.log_std.copy_(torch.tensor([-0.5, 1.25, -1.5]))
    metrics, _ = reported(updater, make_batch(updater.context.model.spec))
    assert log_stds_of(metrics) == pytest.approx([-0.25, -1.5, 1.25])
    assert head.log_std.detach().numpy() != pytest.approx([-0.5, 1.25, -1.5], abs=1e-6)
    assert log_stds_of(LearnerMetrics({}, {})) == [None] * 3


def test_log_stds_that_depend_on_the_state_are_averaged_over_fresh_steps(tmp_path: Path) -> None:
    updater = make_updater_of(make_trainer("baseline"), make_spec(sizes=(), numbers=2, log_std="state"))
    model = updater.context.model
    batch = replace(make_batch(model.spec, absent=True), fresh=np.array([True, False, True, False, False, False]))
    inputs = inputs_of(updater, batch)
    with torch.no_grad():
        latent, _ = model.latents(inputs["observations_BT1"], inputs["core_state_BS"], inputs["terminated_BT"])
        log_std = model.policies.log_stds(model.policy_rows(latent[:, :-1], None)).numpy()[batch.valid & batch.fresh[:, None]]
    expected = [log_std.mean(), log_std.min(1).mean(), log_std.max(1).mean()]
    metrics, report = reported(updater, batch)
    assert log_stds_of(metrics) == pytest.approx(expected, rel=1e-5)
    files = RunFiles(tmp_path, 1.0, 1000)
    files.report(report, Progress(1, 42, 1, 0.5), learning_rate=0.01, fleet={})
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert [line[name] for name in ("log_std", "log_std_min", "log_std_max")] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arm", ["baseline", "paper"])
def test_the_steps_that_a_return_uses_are_reported_for_fresh_and_replayed_rows(arm: str, tmp_path: Path) -> None:
    updater = make_updater_of(make_trainer(arm), make_spec())
    batch = replace(make_batch(updater.context.model.spec), fresh=np.array([True, False, True, True, False, True]))
    metrics, report = reported(updater, batch)
    files = RunFiles(tmp_path, 1.0, 1000)
    files.report(report, Progress(1, 42, 1, 0.5), learning_rate=0.01, fleet={})
    line = json.loads((tmp_path / "metrics.jsonl").read_text())["return_steps"]
    for data in ("fresh", "replayed", "on_policy"):
        assert 1 < line[data] < batch.valid.shape[1]
        assert value(metrics, "return_steps", data=data) == pytest.approx(line[data])
    assert max(line["fresh"], line["replayed"]) < line["on_policy"]  # a policy that acted is not the network's
    only_fresh, _ = reported(updater, replace(batch, fresh=np.ones(6, bool)))
    assert value(only_fresh, "return_steps", data="replayed") is None


def test_a_role_that_makes_no_progress_is_not_up() -> None:
    states = [True, False]
    metrics = LearnerMetrics({}, {}, lambda: states.pop(0))
    assert value(metrics, "up", role="learner") == 1
    assert value(metrics, "up", role="learner") == 0


def test_the_process_is_measured() -> None:
    metrics = LearnerMetrics({}, {})
    assert (value(metrics, "process_resident_memory_bytes", process="learner") or 0) > 2**20
    assert (value(metrics, "process_cpu_seconds_total", process="learner") or 0) > 0


def test_what_auto_settings_became_is_exported() -> None:
    metrics = LearnerMetrics(
        {"trainer.losses.cmpo.advantage": "model", "trainer.losses.muesli_model.policy_target": "cmpo"}, {}
    )
    labels = {"setting": "trainer.losses.cmpo.advantage", "choice": "model"}
    assert metrics.registry.get_sample_value("oatmill_auto", labels) == 1
    assert metrics.registry.get_sample_value("oatmill_auto", labels | {"choice": "sampled"}) is None


def test_the_settings_that_are_numbers_are_exported_by_their_paths() -> None:
    settings = {
        "trainer": {"gamma": 0.9, "compile": True, "device": "cpu", "reward_clip": None},
        "env": {"kwargs": {"mine": 3}},
    }
    metrics = LearnerMetrics({}, settings)
    assert value(metrics, "setting", setting="trainer.gamma") == 0.9
    assert value(metrics, "setting", setting="trainer.compile") == 1
    (family,) = [family for family in metrics.registry.collect() if family.name == "oatmill_setting"]
    assert len(family.samples) == 2, "neither words nor the names that are a user's own"


def test_lines_that_the_disk_does_not_take_are_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    spec, trainer = make_spec(), make_trainer("baseline")
    config = LearnerConfig(trainer, spec.settings, MetricsSettings(), {}, "", tmp_path)
    updater = make_updater(config, spec, ONE)
    reporting = RankReporting(config, ONE, updater, spec, lambda: True)
    monkeypatch.setattr("learner.reporting.run_files.append_line", full)
    for step in (1, 2):
        record, progress, lag = (
            learn(updater, make_batch(spec)),
            Progress(step, 42 * step, step, 0.5 * step),
            np.ones(6, np.int64),
        )
        reporting.note(record, progress, lag=lag, replayed_lag=lag[:0], rate=0.01)
        reporting.report(progress, rate=0.01, fleet={})
    reporting.close()
    assert reporting.metrics is not None
    assert value(reporting.metrics, "metrics_lines_lost_total") == 2


def test_the_time_of_the_last_checkpoint_is_known() -> None:
    class Keeper:
        failure = ""
        written = False

        def save(self, *_: object, **__: object) -> bool:
            return self.written

    reporting: Any = SimpleNamespace(metrics=LearnerMetrics({}, {}), run_files=None, state=None)
    reporting.checkpoint_written = MethodType(RankReporting.checkpoint_written, reporting)
    reporting.checkpoint_failed = MethodType(RankReporting.checkpoint_failed, reporting)
    keeper, rewinds = Keeper(), SimpleNamespace(in_a_row=1)
    learner: Any = SimpleNamespace(
        fleet={},
        keeper=keeper,
        reporting=reporting,
        rewinds=rewinds,
        progress=Progress(0, 0, 0, 0.0),
        batches=None,
        save_attempts=0,
    )
    assert not Learner.save(learner)
    assert value(reporting.metrics, "learner_last_checkpoint_timestamp_seconds") == 0
    before, keeper.written = time.time(), True
    assert Learner.save(learner)
    written = value(reporting.metrics, "learner_last_checkpoint_timestamp_seconds")
    assert written is not None
    assert before <= written <= time.time()
