"""A run folder with a checkpoint, without training."""

from __future__ import annotations

import json
from pathlib import Path

from actors.environments.make import describe
from agent.spec import AgentSpec
from learner.checkpoints.files import Beside, save
from learner.progress import Progress
from runner.settings import RunSettings, write_config
from tests.learner.worlds import make_trainer, make_updater_of


def trained_run(folder: Path, settings: RunSettings, *, stored: RunSettings | None = None) -> Path:
    spec = AgentSpec(describe(settings.env)[0], settings.agent)
    (folder / "checkpoints").mkdir(parents=True)
    write_config(settings, folder / "config.yaml")
    (folder / "summary.json").write_text(json.dumps({"recipe": "cartpole", "preset": None}))
    progress = Progress(learner_step=3, env_steps=1234, policy_version=3)
    updater = make_updater_of(make_trainer("baseline"), spec)
    save(folder / "checkpoints", updater, progress, keep=1, beside=Beside(settings=(stored or settings).to_dict()))
    return folder
