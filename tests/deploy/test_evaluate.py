"""`oatmill eval` plays in a process of its own: what the environment does there is told, and does nothing to the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import save_file

from actors.environments.make import describe
from actors.settings import FactoryEnv
from agent.checkpoint_manifest import MANIFEST, MODEL_FILE, file_digest
from agent.model import AgentModel
from agent.spec import AgentSpec
from deploy.cli.entry import run_command
from recipes import cartpole

FACTORY = "tests.actors.environments.rude_environments:make"


def checkpoint(folder: Path, how: str, when: str) -> str:
    settings = cartpole.settings()
    settings.env = FactoryEnv(factory=FACTORY, kwargs={"how": "nothing"})
    spec = AgentSpec(describe(settings.env)[0], settings.agent)
    folder.mkdir()
    save_file({name: value.detach() for name, value in AgentModel(spec).named_parameters()}, folder / MODEL_FILE)
    settings.env = FactoryEnv(factory=FACTORY, kwargs={"how": how, "when": when})
    progress = {"learner_step": 3, "env_steps": 192, "policy_version": 3}
    manifest = progress | {"agent": spec.to_dict(), "settings": settings.to_dict()}
    manifest["files"] = {MODEL_FILE: file_digest(folder / MODEL_FILE)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return str(folder)


def test_an_environment_that_leaves_fails_the_command_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    played = checkpoint(tmp_path / "step-3", "leaves", "step")
    assert run_command(["eval", played, "--episodes", "2"]) == 2
    assert "names code to be imported and run, env.factory=" in capfd.readouterr().err
    assert run_command(["eval", played, "--episodes", "2", "--trust"]) == 1
    shown = capfd.readouterr()
    assert shown.out == ""
    place = r"\(tests/actors/environments/rude_environments\.py:\d+, in leaves\)"
    says = rf"oatmill: error: the environment called sys\.exit\(0\) {place}\n"
    assert re.fullmatch(says, shown.err)


@pytest.mark.parametrize(
    ("how", "when", "says"),
    [("prints", "step", "hello from another program"), ("raises", "close", "when the environment was closed, it raised")],
)
def test_what_it_prints_and_how_it_closes_leave_the_answer_as_it_is(
    how: str, when: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    played = checkpoint(tmp_path / "step-3", how, when)
    assert run_command(["eval", played, "--episodes", "2", "--trust", "--json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)["episode_return"] == {"mean": 1.0, "std": 0.0, "n": 2}
    assert says in shown.err
