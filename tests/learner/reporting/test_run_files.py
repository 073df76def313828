"""What a run leaves in its files: a line a report, an event a change of a red flag, and the learner's part of the summary."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from learner.progress import Progress
from learner.ranks.reduce import OneRank
from learner.reporting.latch import CLEAR_AFTER
from learner.reporting.loggers import BackgroundWriters
from learner.reporting.measurements import LossReport, Measurements, StepReport, TermReport
from learner.reporting.run_files import RunFiles, observe
from oatmill.files.run_files import EVENTS_FILE, LEARNER_FILE, METRICS_FILE
from tests.learner.worlds import learn, make_batch, make_spec, make_trainer, make_updater_of

FLEET = {"episode_return": {"mean": 3.0, "std": 1.0, "n": 2}, "episodes": 2, "statistics": {"hearts": 0.5}}


def make_report(arm: str = "full", seed: int = 0) -> StepReport:
    spec = make_spec()
    updater = make_updater_of(make_trainer(arm), spec)
    measurements = Measurements(updater.plan.losses, OneRank())
    measurements.add(learn(updater, make_batch(spec, seed=seed)))
    return measurements.report(updater.objective.coefs)


def run_files(folder: Path) -> RunFiles:
    return RunFiles(folder, math.log(3), 1000)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def at(step: int) -> Progress:
    return Progress(learner_step=step, env_steps=100 * step, policy_version=step, seconds=2.0 * step)


class Kept:
    """Takes lines as `learner.reporting.loggers.BackgroundWriters` does."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.closed = 0

    def write(self, line: Any) -> None:
        assert not self.closed
        self.lines.append(line)

    def close(self) -> None:
        self.closed += 1


def test_every_line_goes_to_other_tools_too_and_they_are_closed_with_the_run_files(tmp_path: Path) -> None:
    files, report, kept = run_files(tmp_path), make_report(), Kept()
    files.writers = cast("BackgroundWriters", kept)
    for step in (1, 2):
        files.step(at(step), np.array([1, 1, 3]))
        files.report(report, at(step), learning_rate=0.01, fleet=FLEET)
    files.summary(at(2))
    files.close()
    assert kept.lines == lines(tmp_path / METRICS_FILE)
    assert kept.closed == 1


@pytest.mark.parametrize("arm", ["baseline", "full"])
def test_each_report_is_a_line_of_valid_json_with_every_loss(tmp_path: Path, arm: str) -> None:
    files, report = run_files(tmp_path), make_report(arm)
    for step in (1, 2):
        files.step(at(step), np.array([1, 1, 3]))
        files.report(report, at(step), learning_rate=0.01, fleet=FLEET)
    written = lines(tmp_path / METRICS_FILE)
    assert [line["learner_step"] for line in written] == [1, 2]
    last = written[-1]
    assert set(last["losses"]) == set(report.losses)
    assert last["losses"]["ppo_critic"]["weighted"] == pytest.approx(report.losses["ppo_critic"].weighted)
    assert sum(loss["share"] for loss in last["losses"].values()) == pytest.approx(1)
    assert sum(loss["gradient_share"] for loss in last["losses"].values()) == pytest.approx(1)
    assert last["entropy"]["fraction"] == pytest.approx(last["entropy"]["nats"] / math.log(3))
    assert 0 < last["entropy"]["fraction"] <= 1
    assert last["episode_return"]["mean"] == 3.0
    assert last["learning_rate"] == 0.01
    assert last["policy_lag"]["p50"] == 1
    assert last["env_steps_per_second"] == 50, "100 steps more in 2 seconds more"


def test_the_rate_follows_a_change_and_the_summary_has_that_of_the_whole_run(tmp_path: Path) -> None:
    # 100 s of 1,000 env steps a second, then 20 s of 200: the last ten seconds know only the slow ones.
    files, report = run_files(tmp_path), make_report("baseline")
    steps = [(second, 1000 * second) for second in range(101)] + [(100 + s, 100_000 + 200 * s) for s in range(1, 21)]
    for step, (seconds, env_steps) in enumerate(steps, start=1):
        files.step(Progress(step, env_steps, step, float(seconds)), np.array([1]))
    files.report(report, Progress(121, 104_000, 121, 120.0), learning_rate=0.01, fleet={})
    files.summary(Progress(121, 104_000, 121, 120.0))
    assert lines(tmp_path / METRICS_FILE)[-1]["env_steps_per_second"] == 200
    assert json.loads((tmp_path / LEARNER_FILE).read_text())["env_steps_per_second"] == pytest.approx(104_000 / 120)
    assert len(files.recent_steps) == 11


def test_the_log_says_twice_a_minute_how_far_and_how_well_the_run_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files, report = run_files(tmp_path), make_report("baseline")
    with caplog.at_level("INFO", "oatmill.learner"):
        for step in range(1, 41):  # two seconds each: at 2 s, 32 s and 62 s
            files.step(at(step), np.array([1]))
            files.report(report, at(step), learning_rate=0.01, fleet=FLEET)
    said = [line for line in caplog.messages if line.startswith("learner step")]
    assert [line.partition(":")[0] for line in said] == ["learner step 1", "learner step 16", "learner step 31"]
    assert said[1].startswith("learner step 16: 1,600 of 1,000 env steps, 50 per second, return 3.00; ppo_critic ")


def test_the_rate_of_steps_that_take_longer_than_the_window(tmp_path: Path) -> None:
    files = run_files(tmp_path)
    for step in range(1, 4):
        files.step(Progress(step, 500 * step, step, 50.0 * step), np.array([1]))
    assert files.recent_rate() == 10


def test_muesli_is_judged_by_its_kl_and_not_by_its_cross_entropy() -> None:
    # ln 157 = 5.056 of cross-entropy may hold 0.03 nats that training can remove.
    report = make_report()
    terms = {"cross_entropy": TermReport(5.056, 0.5)}
    muesli = LossReport(terms, {"kl": 0.03, "target_entropy": 5.026}, gradient_norm=0.2)
    report = replace(report, losses={**report.losses, "muesli_model": muesli})
    seen = observe(report, {"nats": 1.0, "fraction": 0.9}, (0.5, 1.0), 0.25, {})
    assert seen.weighted["muesli_model"] == pytest.approx(0.015)
    assert seen.weighted["ppo_critic"] == pytest.approx(abs(report.losses["ppo_critic"].weighted))
    assert seen.policy == pytest.approx(abs(report.losses["ppo_actor"].terms["policy"].raw))
    assert seen.gradient["muesli_model"] == 0.2
    assert (seen.entropy_ratio, seen.explained_variance, seen.target_variance, seen.progress) == (0.9, 0.5, 1.0, 0.25)


def test_the_red_flags_see_returns_and_how_much_the_agents_of_an_episode_differ() -> None:
    fleet = {"episode_return": {"mean": 0.0, "std": None, "n": 100}, "statistics": {"agent_return_std": 0.9}}
    seen = observe(make_report(), {"nats": 1.0, "fraction": 0.9}, (0.5, 1.0), 0.25, fleet)
    assert (seen.return_mean, seen.episodes, seen.agent_spread) == (0.0, 100, 0.9)
    assert math.isnan(seen.return_std)


def test_a_red_flag_is_an_event_when_it_is_raised_and_when_it_is_cleared(tmp_path: Path) -> None:
    files, report = run_files(tmp_path), make_report("baseline")
    raised = [
        files.report(replace(report, skipped=skipped), at(step), learning_rate=0.01, fleet={})
        for step, skipped in enumerate([0, 3, 3, *[0] * CLEAR_AFTER], start=1)
    ]
    expected = [False, *[True] * (1 + CLEAR_AFTER), False]
    assert ["non_finite" in flags for flags in raised] == expected
    events = [
        (event["event"], event["learner_step"]) for event in lines(tmp_path / EVENTS_FILE) if event["flag"] == "non_finite"
    ]
    assert events == [("red_flag_raised", 2), ("red_flag_cleared", 3 + CLEAR_AFTER)]
    assert ["non_finite" in line["red_flags"] for line in lines(tmp_path / METRICS_FILE)] == expected


def test_the_summary_is_written_whole_and_remembers_flags_that_were_cleared(tmp_path: Path) -> None:
    files, report = run_files(tmp_path), make_report("baseline")
    for step, skipped in ((1, 0), (2, 3), (3, 0)):
        files.step(at(step), np.array([2]))
        files.report(replace(report, skipped=skipped), at(step), learning_rate=0.01, fleet=FLEET)
    files.summary(at(3))
    summary = json.loads((tmp_path / LEARNER_FILE).read_text())
    assert (summary["learner_steps"], summary["env_steps"], summary["policy_version"]) == (3, 300, 3)
    assert "non_finite" in {flag["flag"] for flag in summary["red_flags"]}
    assert summary["policy_lag"] == {"p50": 2, "p99": 2}
    assert summary["losses"]["ppo_actor"]["terms"]["policy"]["coef"] == 1.0
    assert {path.name for path in tmp_path.iterdir()} <= {METRICS_FILE, EVENTS_FILE, LEARNER_FILE}


def test_lines_that_cannot_be_written_are_counted_and_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, report = run_files(tmp_path), make_report("baseline")
    with monkeypatch.context() as patched:
        patched.setattr("learner.reporting.run_files.append_line", full)
        for step in (1, 2):
            files.report(report, at(step), learning_rate=0.01, fleet={})
    files.report(report, at(3), learning_rate=0.01, fleet={})
    assert [line["learner_step"] for line in lines(tmp_path / METRICS_FILE)] == [3]
    assert (files.take_lost_lines(), files.take_lost_lines()) == (2, 0)


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")
