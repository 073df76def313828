"""A process that leaves at once ends with its status and all that it has written, and runs nothing afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import atexit, logging, os, sys
from oatmill.children.leaving import leave_at_once
atexit.register(os.abort)
logging.basicConfig(stream=sys.stderr)
sys.stdout.write("done")
logging.getLogger("x").warning("said")
leave_at_once(3)
"""
ROOT = Path(__file__).resolve().parents[3]


def test_what_was_written_is_kept_and_pythons_own_end_is_left_out() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (3, "done")
    assert "said" in run.stderr


def test_every_process_that_meets_other_ranks_leaves_at_once() -> None:
    """The abort that this prevents happens to few processes, and only on a busy machine, so no run shows it reliably."""
    files = [path for folder in ("learner", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    programs = {path: text for path in files if '\nif __name__ == "__main__":\n' in (text := path.read_text())}
    meeting = {path for path, text in programs.items() if "from learner.ranks.meeting import joined" in text}
    assert len(meeting) >= 2
    for path in meeting | {ROOT / "learner/__main__.py"}:
        assert "leave_at_once(" in programs[path].split('if __name__ == "__main__":')[1], path
