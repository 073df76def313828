"""`import oatmill`: fast, with a fixed list of names, and a clear error if a user's file hides a package."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oatmill
from oatmill.errors import SettingsError, UserError
from runner.result import RunResult
from runner.run import Run

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "trainer": {"batch_size": 8, "epochs": 1, "minibatches": 2, "total_timesteps": 1024},
    "actors.envs_per_actor": 4,
    "actors.unroll_length": 16,
    "agent.hidden_sizes": [16],
}


def python(folder: Path, script: str, *, interpreter: str = sys.executable, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a user's script in a folder."""
    (folder / "script.py").write_text(script)
    return subprocess.run(
        [interpreter, str(folder / "script.py")],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def started_with(monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, Any], **how: Any) -> Run:
    """The run that `oatmill.train` would start."""
    runs: list[Run] = []
    monkeypatch.setattr(Run, "start", lambda run, **_: runs.append(run))
    oatmill.train("cartpole", settings, **how)
    return runs[0]


def test_oatmill_has_exactly_the_documented_names() -> None:
    assert oatmill.__all__ == ["Run", "RunSettings", "__version__", "load", "train"]
    assert all(hasattr(oatmill, name) for name in oatmill.__all__)
    with pytest.raises(AttributeError, match=r"^module 'oatmill' has no attribute 'evaluate'$"):
        oatmill.evaluate  # noqa: B018


def test_importing_oatmill_loads_no_large_library_and_takes_less_than_50_ms() -> None:
    script = (
        "import sys, time\nbefore = time.process_time()\nimport oatmill\nprint(time.process_time() - before)\n"
        "print(*sorted({'numpy', 'pydantic', 'torch', 'yaml', 'zmq'} & set(sys.modules)))\n"
    )
    shown = [subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True) for _ in range(3)]  # noqa: PLW1510
    assert {one.stdout.splitlines()[1] for one in shown} == {""}
    assert min(float(one.stdout.splitlines()[0]) for one in shown) < 0.05  # of the CPU: other tests run at the same time


def test_settings_are_given_by_dotted_path_or_nested_and_both_mean_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    dotted = started_with(monkeypatch, {"trainer.gamma": 0.98, "trainer.losses.cmpo.enabled": True})
    nested = started_with(monkeypatch, {"trainer": {"gamma": 0.98, "losses": {"cmpo": {"enabled": True}}}})
    assert dotted.settings == nested.settings
    assert (dotted.trainer.gamma, dotted.trainer.losses.cmpo.enabled) == (0.98, True)
    assert dotted.trainer.losses.ppo_critic.enabled  # the recipe's other settings stay
    seeded = started_with(monkeypatch, {"trainer": {"gamma": 0.98}, "trainer.epochs": 3}, seed=7, actors=3)
    assert (seeded.trainer.gamma, seeded.trainer.epochs) == (0.98, 3)
    assert (seeded.trainer.seed, seeded.settings.actors.seed, seeded.settings.actors.count) == (7, 7, 3)


def test_an_unknown_setting_is_rejected_by_name() -> None:
    with pytest.raises(SettingsError, match=r"^trainer\.gama is not a setting; the nearest is trainer\.gamma$"):
        oatmill.train("cartpole", {"trainer": {"gama": 0.98}})


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Of a short run."""
    return oatmill.train("cartpole", SMALL, seed=1, actors=1, run_dir=tmp_path_factory.mktemp("api") / "run", log_level="error")


def test_a_policy_is_loaded_from_a_run_folder_or_a_checkpoint(result: RunResult) -> None:
    assert (result.outcome, result.env_steps) == ("done", 1024)
    observations = np.zeros((3, 4), np.float32)
    newest = Path(result.run_dir) / "checkpoints" / "latest"
    actions = [oatmill.load(path, seed=5).act(observations) for path in (result.run_dir, newest, newest.resolve())]
    assert actions[0].shape == (3,)
    assert all((one == actions[0]).all() for one in actions)


def test_a_folder_without_a_checkpoint_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint"):
        oatmill.load(tmp_path)


@pytest.mark.parametrize(
    ("imports", "taken"),
    [
        *(("import oatmill", taken) for taken in ("agent.py", "actors.py", "recipes")),
        ("from recipes.cogs_v_clips import train", "actors.py"),
        ("from learner.loss import Loss", "protocol.py"),
        ("from agent import load", "actors.py"),
    ],
)
def test_a_script_beside_a_file_with_the_name_of_a_package_gets_one_line(tmp_path: Path, imports: str, taken: str) -> None:
    kind = "file" if taken.endswith(".py") else "folder"
    if kind == "file":
        (tmp_path / taken).touch()
    else:
        (tmp_path / taken).mkdir()
        (tmp_path / taken / "__init__.py").touch()
    shown = python(tmp_path, imports, PYTHONPATH=str(ROOT))
    assert shown.returncode == 1
    assert shown.stderr.splitlines()[-1].endswith(
        f"Error: oatmill needs the name `{taken.partition('.')[0]}` for its own package, but Python finds {tmp_path / taken} "
        f"first; rename that {kind}, or set PYTHONSAFEPATH=1"
    )


GUIDE = "from recipes.cogs_v_clips import train\nrun = train(num_cogs=4)\nimport oatmill\nprint(oatmill.__version__)\n"


def test_a_folder_of_recipes_without_an_init_file_does_not_hide_oatmills(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    shown = python(tmp_path, GUIDE, PYTHONPATH=str(ROOT))
    assert shown.stdout == f"{oatmill.__version__}\n", shown.stderr


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment_works_and_says_which_file_is_in_the_way(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=100)
    (wheel,) = tmp_path.glob("*.whl")
    fresh, user = tmp_path / "fresh", tmp_path / "user"
    venv.create(fresh, with_pip=False)
    interpreter = str(fresh / "bin" / "python")
    (site,) = fresh.glob("lib/python*/site-packages")
    # The libraries that oatmill needs are seen through a folder that has no oatmill: this environment may hold an editable one.
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "oatmill" not in entry.name.lower() and entry.suffix != ".pth":
            (libraries / entry.name).symlink_to(entry)
    install = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, timeout=100)
    (site / "libraries.pth").write_text(f"{libraries}\n")
    user.mkdir()
    shown = python(user, GUIDE, interpreter=interpreter, PYTHONPATH="")
    assert shown.stdout == f"{oatmill.__version__}\n", shown.stderr
    (user / "agent.py").touch()
    shown = python(user, GUIDE, interpreter=interpreter, PYTHONPATH="")
    assert "oatmill needs the name `agent`" in shown.stderr.splitlines()[-1]
    command = [str(fresh / "bin" / "oatmill"), "plan", "cartpole"]  # the command does not look beside itself
    done = subprocess.run(command, cwd=user, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_a_recipe_from_before_the_move_of_packages_finds_the_settings() -> None:
    from recipes.settings import RunSettings

    assert RunSettings is oatmill.RunSettings
