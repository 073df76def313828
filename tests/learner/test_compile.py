"""`trainer.compile`: the same updates as without it, also where each loss's gradient is measured; and what it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from learner.setup import compile_network
from protocol.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs g++ for CPU code; Debian has it in the package g++"
)
@pytest.mark.parametrize("core", ["none", "lstm"])
def test_a_compiled_network_is_updated_like_one_that_is_not(core: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "tests.learner.compile_process", core],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert max(json.loads(shown.stdout).values()) < 1e-4, shown.stdout


def test_without_a_compiler_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"trainer.compile needs a C.. compiler .* none of g.., clang.. is there"):
        compile_network(nn.Linear(1, 1))
