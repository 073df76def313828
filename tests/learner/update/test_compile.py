"""`trainer.compile`: the same updates as without it, also where each loss's gradient is measured; and what it needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from torch import nn

from learner.setup import compile_network
from oatmill.errors import UserError
from tests.learner.child import output_of


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs g++ for CPU code; Debian has it in the package g++"
)
@pytest.mark.parametrize("core", ["none", "lstm"])
def test_a_compiled_network_is_updated_like_one_that_is_not(core: str) -> None:
    apart = json.loads(output_of("tests.learner.update.compile_process", core, timeout_s=280))
    assert max(apart.values()) < 1e-4, apart


def test_without_a_compiler_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"trainer.compile=true needs a C.. compiler .* none of g.., clang.. was found"):
        compile_network(nn.Linear(1, 1))
