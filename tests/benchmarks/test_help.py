"""Every module of benchmarks that can be run explains itself."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNABLE = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if 'if __name__ == "__main__"' in path.read_text() and not path.name.startswith("run_")  # these need a peer's packages
)


def test_modules_are_found() -> None:
    assert {"benchmarks.__main__", "benchmarks.masked_game", "benchmarks.suite.ddp"} <= set(RUNNABLE)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", RUNNABLE)
def test_help_is_printed(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(module, run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")
