"""A learner's process ends with its status and all that it has written, and runs nothing afterwards."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import atexit, logging, os, sys
from learner.__main__ import leave
atexit.register(os.abort)
logging.basicConfig(stream=sys.stderr)
sys.stdout.write("done")
logging.getLogger("x").warning("said")
leave(3)
"""


def test_what_was_written_is_kept_and_pythons_own_end_is_left_out() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (3, "done")
    assert "said" in run.stderr
