"""A process that uses more memory than its limit says so and ends. Real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from oatmill.process import memory
from oatmill.process.exit_codes import OUT_OF_MEMORY
from oatmill.process.memory import SHARE, default_limit

ROOT = Path(__file__).resolve().parents[3]


def run(script: str) -> subprocess.CompletedProcess[str]:
    head = "import time, mmap\nfrom oatmill.process.memory import MemoryLimit\n"
    command = [sys.executable, "-c", head + script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_process_with_too_much_memory_ends_with_one_line_that_names_the_setting() -> None:
    done = run("""
MemoryLimit("ingest", 100 * 2**20, setting="replay.memory_bytes")
taken = bytearray(b"x") * (200 * 2**20)
time.sleep(10)
""")
    assert done.returncode == OUT_OF_MEMORY
    (line,) = done.stderr.splitlines()
    assert line.startswith("ingest: uses 2")
    assert line.endswith("MiB of memory, and replay.memory_bytes allows 100 MiB; this process ends")
    assert "oatmill: error:" not in done.stderr, "it has not decided to end: it is to be started again"


def test_shared_memory_does_not_count() -> None:
    done = run(
        """
limit = MemoryLimit("ingest", 100 * 2**20, setting="replay.memory_bytes")
shared = mmap.mmap(-1, 200 * 2**20)
for at in range(0, 200 * 2**20, 4096):
    shared[at] = 1
time.sleep(0.5)
limit.close()
""".replace('shared.write(b"x" * 4096 * 51200)', "for at in range(0, 200 * 2**20, 4096): shared[at] = 1")
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_default_limit_is_a_fraction_of_the_machine_or_of_a_smaller_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    machine = default_limit()
    assert machine > 0
    (tmp_path / "memory.max").write_text("max\n")
    assert default_limit() == machine
    (tmp_path / "memory.max").write_text("1000000\n")
    assert default_limit() == int(SHARE * 1_000_000)
