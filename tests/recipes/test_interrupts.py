from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# As while torch is imported: the signal falls into text that is executed, where dataclasses make their methods.
PROGRAM = """
import os, signal, sys
from recipes.interrupts import sigterm_interrupts

try:
    with sigterm_interrupts():
        exec("os.kill(os.getpid(), signal.SIGTERM)\\nfor _ in range(10**6): pass")
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_process_that_sigterm_interrupts_in_executed_text_still_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, timeout=30, check=False
    )
    assert done.returncode == 130
