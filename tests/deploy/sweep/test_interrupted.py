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
    monkeypatch.setattr(deploy.sweep.report, "write_results", lambda *_: None)
    states = optuna.trial.TrialState
    study = SimpleNamespace(trials=[SimpleNamespace(state=states.COMPLETE), SimpleNamespace(state=states.RUNNING)])
    made: Any = SimpleNamespace()
    with pytest.raises(KeyboardInterrupt):
        searched(made, study, trials=3, output=sys.stdout, log_level="info")
    assert "stopped after 1 of 3 trials" in capsys.readouterr().err
