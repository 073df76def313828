"""All roles begin and end the same way: bad input is one line and exit code 2."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from actors.__main__ import ActorRoots
from learner.__main__ import LearnerRoots
from oatmill.errors import RunError, SettingsError, UserError, one_line
from oatmill.process import exit_codes
from oatmill.process.entry import read_roots, run_to_exit, settings_of
from replay.settings import ReplayRoots, ReplaySettings
from runner.settings import RunSettings

ROOT = Path(__file__).parents[3]
ROLES: dict[str, type[BaseModel]] = {"actors": ActorRoots, "learner": LearnerRoots, "replay": ReplayRoots}
UNKNOWN = {
    "actors": ("agent.hidden", "agent.hidden is not a setting; the nearest is agent.hidden_sizes"),
    "learner": ("trainer.gama", "trainer.gama is not a setting; the nearest is trainer.gamma"),
    "replay": ("replay.fractions", "replay.fractions is not a setting; the nearest is replay.fraction"),
}


def config_with(path: str | None = None, value: Any = 1) -> dict[str, Any]:
    """The settings of a run, with one of them changed or added."""
    env = {"env": {"kind": "gymnasium", "id": "CartPole-v1"}}
    config = RunSettings.of(env | {"trainer": {"batch_size": 8}}).to_dict()
    if path is not None:
        root, _, name = path.rpartition(".")
        (config[root] if root else config)[name] = value
    return config


def written(folder: Path, content: str | dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("role", ROLES)
def test_the_settings_of_a_run_are_read_by_every_role(tmp_path: Path, role: str) -> None:
    path = written(tmp_path, config_with())
    assert settings_of(ROLES[role], read_roots(path), path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, " cannot be read: No such file or directory; expected a run's config.yaml"),
        ("env: [", ": expected a run's config.yaml, got ValueError: while parsing a flow "),
        ("\x00", ": expected a run's config.yaml, got ValueError: unacceptable character"),
        ("just words", ": expected a run's config.yaml, got str at its top"),
        ("env: {}\nreplays: {}", ": replays: expected only env, agent, actors, replay, trainer, metrics, evaluator at the top"),
        ("env: {}\nagent: 3", " lacks agent, actors, replay, trainer, metrics; "),
    ],
)
def test_a_file_that_is_not_a_config_is_rejected_by_name(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "missing.yaml" if content is None else written(tmp_path, content)
    with pytest.raises(UserError, match=re.escape(f"--config {path}{says}")):
        read_roots(path)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_names_an_unknown_setting_and_the_nearest_one(tmp_path: Path, role: str) -> None:
    name, says = UNKNOWN[role]
    path = written(tmp_path, config_with(name))
    with pytest.raises(SettingsError, match=f"^--config {path}: {says}$"):
        settings_of(ROLES[role], read_roots(path), path)


def test_the_replay_server_rejects_a_file_without_one_of_its_settings(tmp_path: Path) -> None:
    config = config_with()
    del config["replay"]["hang_timeout"], config["replay"]["memory_bytes"]  # the second is missing in older files
    path = written(tmp_path, config)
    with pytest.raises(SettingsError, match=r"replay\.hang_timeout must be set"):
        settings_of(ReplayRoots, read_roots(path), path)
    assert "hang_timeout" in ReplaySettings.model_fields


def test_every_role_with_bad_settings_ends_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    begun = {}
    for role, (name, _) in UNKNOWN.items():
        folder = tmp_path / role
        folder.mkdir()
        more = ["--listen", f"ipc://{folder}"] if role == "replay" else ["--address", f"ipc://{folder}/nobody"]
        more += [] if role == "actors" else ["--run-dir", str(folder)]
        command = [sys.executable, "-m", role, "--config", str(written(folder, config_with(name))), *more]
        begun[role] = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for role, process in begun.items():
        _, said = process.communicate(timeout=120)
        assert said == f"oatmill: error: --config {tmp_path / role / 'config.yaml'}: {UNKNOWN[role][1]}\n"
        assert process.returncode == exit_codes.BAD_INPUT


def test_an_error_with_several_lines_becomes_one_line_and_its_class_decides_the_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(error: Exception) -> int:
        raise error

    assert run_to_exit(lambda: fail(UserError("expected a\n  got b"))) == exit_codes.BAD_INPUT
    assert run_to_exit(lambda: fail(RunError("no data"))) == exit_codes.FAILED
    assert run_to_exit(lambda: exit_codes.DONE) == 0
    # The other lines are those of this test, which counts as the user's code.
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("  ")]
    assert said == ["oatmill: error: expected a got b", "oatmill: error: no data"]


MAZE = """
def step():
    return wall({})

def wall(world):
    return world["wall"]
"""


def test_the_lines_of_the_users_code_come_before_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "maze.py").write_text(MAZE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(MAZE, str(tmp_path / "maze.py"), "exec"), names)

    def role() -> int:
        try:
            names["step"]()
        except KeyError as error:
            raise RunError(f"the environment raised {one_line(error)}") from error
        return 0

    assert run_to_exit(role) == exit_codes.FAILED
    # The test's own call belongs to the user's code, too: pytest is no part of oatmill.
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "  maze.py:3, in step: return wall({})",
        '  maze.py:6, in wall: return world["wall"]',
        "oatmill: error: the environment raised KeyError: 'wall' (maze.py:6, in wall)",
    ]
