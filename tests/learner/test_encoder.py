"""Which network `agent.encoder=auto` is: the learner decides, by its device or by the checkpoint that it resumes from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.checkpoint_manifest import MANIFEST, MODEL_FILE, with_digest
from agent.settings import AgentSettings
from learner.learner import encoder_of
from learner.settings import TrainerSettings
from learner.setup import LearnerConfig
from oatmill.settings.base import MetricsSettings


def decided(run_dir: Path, *, asked: str = "auto", resume: bool = False, on_cpus: bool = True) -> str:
    config = LearnerConfig(TrainerSettings(), AgentSettings(encoder=asked), MetricsSettings(), {}, "", run_dir, resume=resume)
    ranks: Any = SimpleNamespace(device=SimpleNamespace(type="cpu"), lowest=lambda *_flags: [float(on_cpus)])
    return encoder_of(config, ranks)


def save(run_dir: Path, step: int, encoder: str) -> Path:
    """A checkpoint, as far as it is read."""
    folder = run_dir / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True)
    numbers = {"learner_step": step, "env_steps": 0, "policy_version": 0}
    manifest = {**numbers, "agent": {"settings": {"encoder": encoder}}, "files": {MODEL_FILE: ""}}
    (folder / MANIFEST).write_text(json.dumps(with_digest(manifest)))
    return folder


@pytest.mark.parametrize(
    ("asked", "on_cpus", "encoder"),
    [("auto", True, "auto_cpu"), ("auto", False, "auto"), ("nature", True, "nature"), ("auto_cpu", False, "auto_cpu")],
)
def test_auto_is_decided_by_the_device_of_all_ranks(tmp_path: Path, asked: str, on_cpus: bool, encoder: str) -> None:
    assert decided(tmp_path, asked=asked, on_cpus=on_cpus) == encoder


def test_a_resumed_run_keeps_its_checkpoints_network(tmp_path: Path) -> None:
    assert decided(tmp_path, resume=True) == "auto_cpu"
    save(tmp_path, 3, "auto_cpu")
    newest = save(tmp_path, 12, "auto")
    assert decided(tmp_path, resume=True) == "auto"
    assert decided(tmp_path) == "auto_cpu"
    (newest / MANIFEST).write_text("damaged")
    assert decided(tmp_path, resume=True, on_cpus=False) == "auto_cpu"
