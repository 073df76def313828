"""A checkpoint and a run's folder are data: nothing that they name is imported or called unless the user trusts them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import agent
from actors.environments.make import describe
from actors.settings import AtariEnv, CogsEnv, FactoryEnv, GymnasiumEnv, MiniGridEnv, PettingZooEnv
from agent.checkpoint_manifest import MANIFEST, MODEL_FILE, file_digest
from agent.model import AgentModel
from agent.spec import AgentSpec
from oatmill.errors import UserError
from recipes import cartpole
from recipes.resolve import resolve_run
from runner.evaluation.evaluation import evaluate_checkpoint
from runner.settings import RunSettings, write_config
from runner.trust import check_trust

ENVIRONMENTS = (
    GymnasiumEnv(id="CartPole-v1", kwargs={"inner": {"names": ["anything"]}}),
    CogsEnv(),
    MiniGridEnv(),
    AtariEnv(),
    PettingZooEnv(factory="a:b"),
    FactoryEnv(factory="a:b"),
)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module beside the command that leaves a file when it is imported, and another where `make` is called."""
    monkeypatch.chdir(tmp_path)
    name = f"stranger_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(
        "from pathlib import Path\nPath('imported').touch()\n"
        "def make(*values, **named):\n    Path('called').touch()\n    raise RuntimeError('called')\n"
    )
    return f"{name}:make"


def save_checkpoint(folder: Path, manifest: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = cartpole.settings()
    spec = AgentSpec(describe(settings.env)[0], settings.agent)
    save_file({name: value.detach() for name, value in AgentModel(spec).named_parameters()}, folder / MODEL_FILE)
    progress = {"learner_step": 3, "env_steps": 192, "policy_version": 3}
    base = progress | {"agent": spec.to_dict(), "settings": settings.to_dict()}
    whole = base | manifest | {"files": {MODEL_FILE: file_digest(folder / MODEL_FILE)}}
    (folder / MANIFEST).write_text(json.dumps(whole))
    return folder


def texts(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every text and every list, where a stranger may have put one."""
    if isinstance(values, dict | list):
        if isinstance(values, list):
            yield path
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from texts(value, (*path, name))
    elif isinstance(values, str):
        yield path


def put(values: Any, path: tuple[Any, ...], text: str) -> Any:
    changed = json.loads(json.dumps(values))
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = [text] if isinstance(place[path[-1]], list) else text
    return changed


@pytest.mark.parametrize("env", ENVIRONMENTS, ids=lambda env: env.kind)
def test_no_text_of_a_manifest_is_imported_or_called(env: Any, stranger: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "step-3", {})
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["settings"]["env"] = env.model_dump(mode="json")
    tried = [path for path in texts(manifest) if path[0] in ("agent", "settings")]
    assert {("agent", "settings", "encoder"), ("settings", "trainer", "extra_losses")} <= set(tried)
    for path in tried:
        (folder / MANIFEST).write_text(json.dumps(put(manifest, path, stranger)))
        with contextlib.suppress(Exception):  # whatever becomes of a manifest that makes no sense
            evaluate_checkpoint(folder, episodes=1, deterministic=False, seed=0)
        assert not (tmp_path / "imported").exists(), path


@pytest.mark.parametrize(
    ("setting", "env"),
    [
        ("env.factory", {"kind": "factory", "factory": "os:system", "kwargs": {"command": "touch called"}}),
        ("env.factory", {"kind": "pettingzoo", "factory": "os:system", "kwargs": {"command": "touch called"}}),
        # A function of oatmill's own is no better: this one starts any program.
        ("env.factory", {"kind": "factory", "factory": "runner.local.child:Child", "kwargs": {}}),
        ("env.id", {"kind": "gymnasium", "id": "os:CartPole-v1"}),
        ("env.id", {"kind": "minigrid", "id": "os:MiniGrid-Empty-5x5-v0"}),
        ("env.kwargs.inner", {"kind": "gymnasium", "id": "CartPole-v1", "kwargs": {"inner": ["os:system"]}}),
    ],
)
def test_what_an_environment_names_is_refused_by_its_setting_with_the_way_out(
    setting: str, env: dict[str, Any], tmp_path: Path
) -> None:
    settings = cartpole.settings().to_dict() | {"env": env}
    folder = save_checkpoint(tmp_path / "step-3", {"settings": settings})
    with pytest.raises(
        UserError, match=rf"names code to be imported and run, {setting}=.*add --trust \(in Python: trust=True\)$"
    ):
        evaluate_checkpoint(folder, episodes=1, deterministic=False, seed=0)


def test_with_trust_it_is_called(stranger: str, tmp_path: Path) -> None:
    settings = cartpole.settings().to_dict() | {"env": {"kind": "factory", "factory": stranger}}
    folder = save_checkpoint(tmp_path / "step-3", {"settings": settings})
    with pytest.raises(UserError, match="could not be built: RuntimeError: called"):
        evaluate_checkpoint(folder, episodes=1, deterministic=False, seed=0, trust=True)
    assert (tmp_path / "called").exists()


def test_an_agent_with_an_encoder_of_somebodys_own_is_loaded_only_with_trust(stranger: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "step-3", {})
    agent.load(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["agent"]["settings"]["encoder"] = stranger
    save_checkpoint(folder, {"agent": manifest["agent"]})
    with pytest.raises(UserError, match=r"names code to be imported and run, agent\.encoder="):
        agent.load(folder)
    assert not (tmp_path / "imported").exists()
    with pytest.raises(UserError, match="raised RuntimeError: called"):
        agent.load(folder, trust=True)


def resumable(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir()
    settings = RunSettings.of(cartpole.settings().to_dict() | values)
    write_config(settings, folder / "config.yaml")
    (folder / "run.json").write_text(json.dumps({"recipe": "cartpole", "preset": None}))
    return folder


OWN_ENV = {"env": {"kind": "factory", "factory": "mine:make"}}


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        (OWN_ENV, "env.factory"),
        ({"agent": {"encoder": "mine:make"}}, "agent.encoder"),
        ({"trainer": {"extra_losses": ["mine:choose"]}}, "trainer.extra_losses"),
    ],
)
def test_a_run_is_gone_on_with_only_if_the_command_names_its_code_too(
    values: dict[str, Any], setting: str, tmp_path: Path
) -> None:
    folder = resumable(tmp_path / "run", values)
    with pytest.raises(UserError, match=rf"{folder} names code to be imported and run, {setting}=mine:"):
        resolve_run("cartpole", (), preset=None, config=None, flags={}, resumed=folder)
    trusted = resolve_run("cartpole", (), preset=None, config=None, flags={}, resumed=folder, trust=True)
    check_trust(trusted.settings, folder, trust=True)


def test_what_the_command_line_names_again_needs_no_trust(tmp_path: Path) -> None:
    folder = resumable(tmp_path / "run", OWN_ENV)
    run = resolve_run("cartpole", ["env.factory=mine:make"], preset=None, config=None, flags={}, resumed=folder)
    unsaid = {"kwargs": {}, "channels": "auto", "info_metrics": [], "wrappers": []}
    assert run.settings.to_dict()["env"] == OWN_ENV["env"] | unsaid


def test_a_run_is_gone_on_with_without_naming_its_recipe(tmp_path: Path) -> None:
    folder = resumable(tmp_path / "run", {"trainer": {"epochs": 3}})
    run = resolve_run("trainer.gamma=0.5", ["actors.count=7"], preset=None, config=None, flags={}, resumed=folder)
    assert (run.recipe, run.settings.trainer.epochs) == ("cartpole", 3)
    assert (run.settings.trainer.gamma, run.settings.actors.count) == (0.5, 7)


def test_a_recipe_that_only_the_folder_names_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    folder = resumable(tmp_path / "run", OWN_ENV)
    (folder / "run.json").write_text(json.dumps({"recipe": "theirs:recipe", "preset": None}))
    with pytest.raises(UserError, match=r"names code to be imported and run, env\.factory=mine:make"):
        resolve_run(None, (), preset=None, config=None, flags={}, resumed=folder)
    run = resolve_run(None, (), preset=None, config=None, flags={}, resumed=folder, trust=True)
    assert run.recipe == "theirs:recipe"
    assert run.settings.to_dict()["env"]["factory"] == "mine:make"
