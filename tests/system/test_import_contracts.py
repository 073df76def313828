"""Every import contract of pyproject.toml is kept, and each of them detects a violation that the test adds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from oatmill.user_code import PACKAGES

ROOT = Path(__file__).resolve().parents[2]

VIOLATIONS = {
    "layers": [
        ("learner/settings.py", "import actors.settings"),  # two packages of the same row
        ("oatmill/errors.py", "import protocol.data.spaces"),  # an import of a higher layer
        ("protocol/data/spaces.py", "import agent.spec"),
        ("oatmill/files/json_lines.py", "import recipes.registry"),
        ("recipes/recipe.py", "import deploy.cli"),
        ("replay/store/queue.py", "import agent.settings"),
    ],
    "actors-use-the-wire": [("actors/unroll.py", "import replay.store.queue")],
    "no-torch": [
        ("replay/store/queue.py", "import torch"),
        ("protocol/data/weights.py", "import torch"),
        ("oatmill/origin.py", "import torch"),
    ],
    "settings-without-torch": [
        ("runner/settings.py", "import torch"),
        ("learner/budget.py", "import torch"),  # which runner.settings imports
    ],
    "losses-stand-alone": [("learner/losses/ppo_actor.py", "import learner.losses.cmpo")],
    "protocol-rooms": [("protocol/peers/batch.py", "import protocol.channels.sockets")],
    "replay-rooms": [
        ("replay/hub/members.py", "import replay.ingest.actors.credit"),
        ("replay/log/segments.py", "import replay.store.queue"),
    ],
    "ingest-rooms": [("replay/ingest/actors/pace.py", "import replay.ingest.batches.cutter")],
    "learner-rooms": [("learner/nodes/masks.py", "import learner.update.sums")],
    "runner-rooms": [("runner/evaluation/playing.py", "import runner.local.child")],
    "actors-rooms": [("actors/environments/adapters/cogs.py", "import actors.environments.make")],
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def contract_is_kept(folder: Path, contract: str) -> bool:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    options = ["--contract", contract, "--no-cache", "--no-logo"]
    shown = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ("1 kept, 0 broken" in shown.stdout) != ("0 kept, 1 broken" in shown.stdout), shown.stdout + shown.stderr
    return shown.returncode == 0


def test_every_contract_has_a_violation_here() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["id"] for contract in contracts} == VIOLATIONS.keys()


@pytest.mark.parametrize(
    ("contract", "file", "line"), [(contract, *planted) for contract, plants in VIOLATIONS.items() for planted in plants]
)
def test_a_violation_breaks_its_contract(contract: str, file: str, line: str, copy: Path) -> None:
    path = copy / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    assert not contract_is_kept(copy, contract)


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_without_a_violation_a_contract_is_kept(contract: str, copy: Path) -> None:
    assert contract_is_kept(copy, contract)
