"""Copies of a process by `os.fork`: those that come back end, and the process itself raises an error that names the line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIPT = """
import os

from oatmill.children.copies import Copies

own, copies = os.getpid(), Copies("env.factory=mine:make")
reader, writer = os.pipe()


def step():
    for _ in range({forks}):
        {fork}


step()
os.write(writer, b"x")
if os.getpid() != own:
    copies.check()
    os.write(writer, b"a copy goes on")
os.close(writer)
came_back = 0
while part := os.read(reader, 1000):  # until all copies have ended
    came_back += len(part)
print(came_back, flush=True)
copies.check()
"""


def run(tmp_path: Path, fork: str, *, forks: int) -> subprocess.CompletedProcess[str]:
    (tmp_path / "mine.py").write_text(SCRIPT.format(forks=forks, fork=fork))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "mine.py"]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_copy_that_ends_itself_is_no_error(tmp_path: Path) -> None:
    done = run(tmp_path, "os._exit(0) if os.fork() == 0 else os.wait()", forks=3)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_copy_that_comes_back_ends_and_the_line_that_made_it_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "os.fork()", forks=1)
    assert (done.returncode, done.stdout) == (1, "2\n")
    says = "env.factory=mine:make forked this process, and the copy did not end; call os._exit in it (mine.py:12, in step)"
    assert done.stderr.splitlines()[-1] == f"oatmill.errors.UserCodeError: {says}"


def test_copies_of_copies_are_limited(tmp_path: Path) -> None:
    done = run(tmp_path, "os.fork()", forks=6)
    # By hand: of the 64, those that were forked at most three times in a row, 1 + 6 + 15 + 20.
    assert (done.returncode, done.stdout) == (1, "42\n")
