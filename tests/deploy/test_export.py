"""`oatmill export` takes what `oatmill eval` takes, and writes one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.cli.entry import run_command
from deploy.cli.export import Format
from tests.agent.test_loading import checkpoint

OWN = "tests.agent.exporting.test_exporting:branching"


def test_a_run_and_its_checkpoint_are_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    saved, _ = checkpoint(tmp_path / "run" / "checkpoints", core="gru")
    (tmp_path / "run" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert run_command(["export", "run", "--format", "torch"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("policy.pt2: torch, 0.")
    assert [line.split() for line in shown[1:]] == [
        ["input", "observation", "float32", "[N,", "4]"],
        ["input", "state", "float32", "[N,", "6]"],
        ["output", "action", "int64", "[N]"],
        ["output", "logits", "float32", "[N,", "3]"],
        ["output", "value", "float32", "[N]"],
        ["output", "next_state", "float32", "[N,", "6]"],
    ]
    assert run_command(["export", str(saved), "--format", "safetensors", "--output", "weights", "--json"]) == 0
    size = (tmp_path / "weights").stat().st_size
    assert json.loads(capsys.readouterr().out) == {
        "path": "weights", "format": "safetensors", "size": size, "inputs": [], "outputs": [], "learner_step": 3
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.pt2", "run", "weights"]


def test_a_network_of_the_user_is_run_only_with_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, _ = checkpoint(tmp_path, encoder=OWN)
    words = ["export", str(saved), "--format", "torch", "--output", str(tmp_path / "policy.pt2")]
    assert run_command(words) == 2
    assert f"names code to be imported and run, agent.encoder={OWN}" in capsys.readouterr().err
    assert run_command([*words, "--trust"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("oatmill: error: the network cannot be exported as torch: ")
    assert shown.count("\n") == 1
    assert not (tmp_path / "policy.pt2").exists()


def test_the_command_offers_the_formats_that_exist() -> None:
    from agent.exporting.formats import FORMATS

    assert list(Format) == list(FORMATS)
