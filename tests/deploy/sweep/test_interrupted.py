from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

import deploy.sweep.report
import deploy.sweep.study
from deploy.cli.sweep import searched

optuna = pytest.importorskip("optuna")


def test_an_interrupted_trial_does_not_count_as_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_trials: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy.sweep.study, "Trials", lambda *_, **__: SimpleNamespace(run=interrupt))
    said: list[str] = []
    monkeypatch.setattr(deploy.sweep.report, "write_results", lambda *_: said.append(capsys.readouterr().err))
    states = optuna.trial.TrialState
    study = SimpleNamespace(trials=[SimpleNamespace(state=states.COMPLETE), SimpleNamespace(state=states.RUNNING)])
    made: Any = SimpleNamespace()
    with pytest.raises(KeyboardInterrupt):
        searched(made, study, trials=3, output=sys.stdout, log_level="info")
    assert said == ["stopped after 1 of 3 trials; the same command continues\n"], "told before the report, which takes seconds"
