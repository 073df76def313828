"""Bad input gets exit code 2 and one line on stderr that says what is wrong, never a traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli.entry import run_command
from recipes import cartpole
from runner.settings import write_config
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]

RECIPES = """
def leaves(): raise SystemExit(0)
def raises(): raise RuntimeError("two\\nlines")
def wrong(): return 4
"""

CASES = {
    "no command": (["trian", "cartpole"], "No such command 'trian'"),
    "a recipe and an environment": (["train", "cartpole", "--env", "CartPole-v1"], "got both (cartpole and --env CartPole-v1)"),
    "no recipe": (["train"], "Missing argument 'RECIPE'"),
    "unknown option": (["train", "cartpole", "--sede", "1"], "No such option: --sede"),
    "a setting as an option": (
        ["train", "cartpole", "--gamma", "0.9"],
        "No such option: --gamma; a setting is written without dashes, trainer.gamma=VALUE",
    ),
    "a path of a setting as an option": (
        ["plan", "cartpole", "--trainer.gamma=0.9"],
        "a setting is written without dashes, trainer.gamma=VALUE",
    ),
    "option without value": (["train", "cartpole", "--seed"], "--seed"),
    "an empty folder": (
        ["train", "cartpole", "--run-dir", ""],
        "--run-dir: expected a value, got an empty string; is a variable",
    ),
    "an empty folder after =": (
        ["eval", "old", "--episodes=1", "--record="],
        "--record: expected a value, got an empty string",
    ),
    "an address without keys": (
        ["train", "cartpole", "--listen", "tcp://0.0.0.0"],
        "and no key is required; use keys (oatmill",
    ),
    "option of another type": (["train", "cartpole", "--seed", "x"], "Invalid value for '--seed'"),
    "a number with a unit": (
        ["chaos", "old", "--seconds", "10s"],
        "Invalid value for '--seconds': expected a number, without a unit, got '10s' (For how many seconds faults are",
    ),
    "a count with a unit": (
        ["train", "cartpole", "--actors", "2k"],
        "Invalid value for '--actors': expected a whole number, without a unit, got '2k' (",
    ),
    "unknown log level": (["recipes", "--log-level", "loud"], "Invalid value for '--log-level'"),
    "unknown recipe": (["train", "cartpol"], "there is no recipe 'cartpol'; the nearest is cartpole"),
    "unknown recipe in plan": (["plan", "cogs"], "the nearest is cogs_v_clips"),
    "own recipe without module": (["train", "nowhere:settings"], "module nowhere cannot be imported"),
    "own recipe without function": (["train", "own_bad_recipes:nothing"], "has no function nothing"),
    "own recipe that raises": (["train", "own_bad_recipes:raises"], "raised RuntimeError: two lines"),
    "own recipe that leaves": (
        ["train", "own_bad_recipes:leaves"],
        "own_bad_recipes.py:2, in leaves)",
    ),
    "own recipe of another type": (
        ["train", "own_bad_recipes:wrong"],
        "must return RunSettings, a Run or nested values, got int",
    ),
    "unknown preset": (["train", "cartpole", "--preset", "agressive"], "the nearest is aggressive"),
    "unknown key": (["train", "cartpole", "trainer.losses.cmpo.kl=1"], "the nearest is trainer.losses.cmpo.kl_coef"),
    "no key=value": (["train", "cartpole", "conservative"], "expected key=value"),
    "spaces around the =": (
        ["train", "cartpole", "trainer.gamma", "=", "0.9"],
        "expected key=value without spaces around the =",
    ),
    "a short name of a setting as an option": (
        ["train", "cartpole", "--lr", "0.1"],
        "No such option: --lr; a setting is written without dashes, trainer.optimizer.learning_rate=VALUE",
    ),
    "wrong type": (["train", "cartpole", "trainer.epochs=many"], "trainer.epochs must be a whole number"),
    "out of bounds": (["plan", "cartpole", "trainer.losses.cmpo.kl_coef=-1"], "must be a finite number of at least 0, got -1"),
    "a flag out of bounds": (
        ["train", "cartpole", "--actors", "0"],
        "actors.count must be a whole number from 1 to 10000, got 0",
    ),
    "a group": (["train", "cartpole", "trainer.losses.cmpo=true"], "is a group of settings"),
    "unknown mission": (["train", "cogs_v_clips", "env.mission=hard"], "one of easy_hearts_small, easy_hearts, got 'hard'"),
    "unknown environment": (["train", "cartpole", "env.id=CartPol-v1"], "env.id=CartPol-v1 could not be built"),
    "own environment without module": (
        ["plan", "cartpole", "env.kind=factory", "env.factory=nowhere:make"],
        "module nowhere cannot be imported",
    ),
    "losses that do not fit": (
        [
            "train",
            "cartpole",
            "trainer.losses.dynamics.enabled=true",
            "trainer.losses.muesli_model.enabled=true",
            "trainer.losses.muesli_model.policy_horizon=5",
        ],
        "trainer.losses.muesli_model.policy_horizon must be at most",
    ),
    "no loss at all": (
        ["plan", "cartpole", "trainer.losses.ppo_actor.enabled=false", "trainer.losses.ppo_critic.enabled=false"],
        "every loss is disabled",
    ),
    "missing file of settings": (["train", "cartpole", "--config", "nothing.yaml"], "nothing.yaml cannot be read"),
    "broken yaml": (["train", "cartpole", "--config", "broken.yaml"], "broken.yaml is not YAML: "),
    "a list of settings": (["train", "cartpole", "--config", "list.yaml"], "must contain settings by name"),
    "a folder of settings": (["train", "cartpole", "--config", "taken"], "taken cannot be read: Is a directory"),
    "binary settings": (["train", "cartpole", "--config", "binary.yaml"], "binary.yaml is not YAML"),
    "run folder that holds something": (["train", "cartpole", "--run-dir", "taken"], "exists and is not empty"),
    "run folder that is a file": (
        ["train", "cartpole", "--run-dir", "broken.yaml"],
        "must be a new or empty folder, got a file",
    ),
    "run folder below a file": (["train", "cartpole", "--run-dir", "broken.yaml/run"], "cannot be created or written to"),
    "nothing to resume": (["train", "cartpole", "--resume"], "there is no run in"),
    "nothing to resume there": (["train", "cartpole", "--resume", "--run-dir", "taken"], "taken is not a run folder"),
    "resume without checkpoint": (
        ["train", "lunar_lander", "--resume", "--run-dir", "old"],
        "is a run of recipe cartpole, got lunar_lander",
    ),
    "address that is none": (["train", "cartpole", "--listen", "udp://x"], "--listen must be ipc or tcp://HOST"),
    "port out of range": (["train", "cartpole", "--listen", "tcp://127.0.0.1:70000"], "with a port from 1 to 65532"),
    "missing checkpoint": (["eval", "nothing"], "nothing is not a checkpoint: expected a folder"),
    "checkpoint that is a file": (["eval", "broken.yaml"], "is not a checkpoint: expected a folder"),
    "run without checkpoint": (["eval", "old"], "old is the folder of a run that has no checkpoint: it has just begun, or"),
    "no video": (["eval", "old", "--record", "out.avi"], "--record takes a file that ends in .mp4 or .gif, got out.avi"),
    "export of nothing": (["export", "nothing", "--format", "torch"], "nothing is not a checkpoint: expected a folder"),
    "export without checkpoint": (["export", "old", "--format", "torch"], "old is the folder of a run that has no checkpoint"),
    "unknown format": (["export", "old", "--format", "tflite"], "Invalid value for '--format': 'tflite' is not one of"),
    "export into no folder": (["export", "old", "--output", "nowhere/policy"], "there is no folder nowhere"),
    "export into a folder": (["export", "old", "--output", "taken"], "taken cannot be written: it is a folder"),
    "no encoder": (["plan", "cartpole", "agent.encoder=transformer"], "or your own as module:make, got 'transformer'"),
    "no episodes": (
        ["eval", "old", "--episodes", "0"],
        "Invalid value for '--episodes': expected a number of at least 1, got ",
    ),
    "status of nothing": (["status"], "there is no run in"),
    "status of no run": (["status", "--run-dir", "taken"], "taken is not a run folder"),
    "status of an ended run": (["status", "--run-dir", "old", "--json"], "no run is active in"),
    "stop of an ended run": (["stop", "--run-dir", "old"], "no run is active in"),
    "scale of an ended run": (["scale", "--actors", "2", "--run-dir", "old"], "no run is active in"),
    "scale without number": (["scale", "--run-dir", "old"], "Missing option '--actors'"),
    "actor without settings": (["actor", "--address", "tcp://127.0.0.1:1"], "expected a RECIPE, or --config FILE"),
    "actor without address": (["actor", "cartpole"], "Missing option '--address'"),
    "learner without folder": (["learner", "cartpole", "--address", "tcp://127.0.0.1:1"], "Missing option '--run-dir'"),
    "learner of another run": (
        ["learner", "lunar_lander", "--address", "tcp://127.0.0.1:1", "--run-dir", "old"],
        "config.yaml belongs to another run: agent.hidden_sizes",
    ),
    "replay of another run": (["replay", "cogs_v_clips", "--run-dir", "old"], "config.yaml belongs to another run"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all kinds of things in the way."""
    (tmp_path / "own_bad_recipes.py").write_text(RECIPES)
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "something").touch()
    (tmp_path / "old" / "checkpoints").mkdir(parents=True)
    write_config(cartpole.settings(), tmp_path / "old" / "config.yaml")
    (tmp_path / "old" / "run.json").write_text('{"recipe": "cartpole", "preset": null}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in os.environ if name.startswith("OATMILL")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.parametrize(("arguments", "message"), CASES.values(), ids=CASES.keys())
def test_bad_input_is_reported_in_one_line_and_starts_nothing(
    arguments: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.relative_to(place) for path in place.rglob("*") if "__pycache__" not in path.parts)
    code = run_command(arguments)
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("oatmill: error: ")
    assert message in lines[0]
    after = sorted(
        path.relative_to(place) for path in place.rglob("*") if "__pycache__" not in path.parts and path.name != ".lock"
    )
    assert after == before


def test_a_wrong_variable_is_named(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OATMILL__TRAINER__EPOCS", "3")
    assert run_command(["plan", "cartpole"]) == 2
    assert capsys.readouterr().err == (
        "oatmill: error: OATMILL__TRAINER__EPOCS: trainer.epocs is not a setting; the nearest is trainer.epochs\n"
    )
    assert place.exists()


def test_a_traceback_comes_only_when_it_is_asked_for(place: Path) -> None:
    for level, lines in (("info", 1), ("debug", None)):
        command = [sys.executable, "-m", "deploy", "train", "nowhere:settings", "--log-level", level]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        shown = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert shown.returncode == 2
        assert shown.stderr.splitlines()[-1].startswith("oatmill: error: recipe nowhere:settings")
        assert ("Traceback" in shown.stderr) == (lines is None)


def test_a_folder_that_cannot_be_written_to_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # /proc takes no folders, not even from root.
    assert run_command(["train", "cartpole", "--run-dir", "/proc/oatmill"]) == 2
    assert "/proc/oatmill cannot be created or written to" in capsys.readouterr().err
    assert place.exists()


def test_a_taken_port_is_told_and_leaves_no_run_folder(place: Path) -> None:
    with socket.socket() as taken:
        port = free_ports()  # the run needs those that follow, too
        taken.bind(("127.0.0.1", port))
        taken.listen()
        command = [
            sys.executable,
            "-m",
            "deploy",
            "train",
            "cartpole",
            "--listen",
            f"tcp://127.0.0.1:{port}",
            "--run-dir",
            "new",
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        shown = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert shown.returncode == 2, shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    assert shown.stderr.startswith(f"oatmill: error: cannot listen on tcp://127.0.0.1:{port}: Address already in use")
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("output", "said"),
    [("> /dev/full", "standard output cannot be written: No space left on device"), (">&-", ""), ("2>&-", "")],
)
def test_a_standard_stream_that_is_full_or_closed_is_no_traceback(output: str, said: str) -> None:
    shell = ["sh", "-c", f"exec {sys.executable} -m deploy recipes {output}"]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == (1 if said else 0), done.stderr
    assert len(done.stderr.splitlines()) == bool(said)
    assert said in done.stderr
