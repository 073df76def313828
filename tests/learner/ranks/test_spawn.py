"""The ranks of one host: started together, ended together, and heard once. Real processes that load no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[3]
LEADER = """
import sys
from pathlib import Path
from learner.ranks import spawn
spawn.GRACE_S = 0.5
sys.exit(spawn.Group([sys.executable, "-c", sys.argv[2]], 2, Path(sys.argv[1])).run())
"""
RANK = """
import os, signal, sys, time
from pathlib import Path
from learner.ranks.spawn import STORE
from oatmill.process.last_words import inherit, say_last
rank, folder = int(os.environ["RANK"]), Path(os.environ[STORE]).parent
def ready():
    (folder / f"ready-{os.getpid()}").touch()
def leave(*_):
    (folder / f"asked-{rank}").touch()
    sys.exit(0)
"""
SLEEPS = "ready()\ntime.sleep(60)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPS
OBEYS = "signal.signal(signal.SIGTERM, leave)\n" + SLEEPS


@contextmanager
def group(folder: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """A group of two ranks."""
    command = [sys.executable, "-c", LEADER, str(folder), RANK + code]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as leader:
        try:
            yield leader
        finally:
            leader.kill()


def ranks_of(folder: Path, count: int = 2) -> list[int]:
    """The processes of the ranks, once that many are ready."""
    deadline = time.monotonic() + 60
    while len(found := list(folder.glob("ready-*"))) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return [int(path.name.removeprefix("ready-")) for path in found]


def all_end(pids: list[int], within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_ranks_get_their_numbers_and_meet_in_a_private_folder(tmp_path: Path) -> None:
    code = (
        "import os, stat, sys; from pathlib import Path; store = Path(os.environ['OATMILL_RANKS_STORE'])\n"
        "numbers = [os.environ[name] for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')]\n"
        "found = [*numbers, oct(store.parent.stat().st_mode)[-3:], 'MASTER_ADDR' in os.environ, store.parent]\n"
        # One write, because the two ranks share the output.
        "sys.stdout.write(' '.join(map(str, found)) + chr(10))"
    )
    (tmp_path / "learner.py").write_text(code)
    start = "import sys; from learner.ranks import spawn; sys.argv = ['spawn', '2', 'x']; sys.path.insert(0, sys.argv[2])"
    # The module `learner` of the ranks is a script here, so that no torch is loaded.
    start += f"; import os; os.environ['PYTHONPATH'] = {str(tmp_path)!r}; os.chdir({str(tmp_path)!r}); sys.exit(spawn.main())"
    environ = {name: value for name, value in os.environ.items() if name != "MASTER_ADDR"}
    shown = subprocess.run([sys.executable, "-c", start], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    lines = sorted(line.split() for line in shown.stdout.splitlines())
    assert [line[:5] for line in lines] == [["0", "0", "2", "700", "False"], ["1", "1", "2", "700", "False"]]
    assert lines[0][5] == lines[1][5]
    assert not Path(lines[0][5]).exists(), "the folder goes with the group"


def test_a_rank_that_is_killed_ends_all_and_is_named(tmp_path: Path) -> None:
    with group(tmp_path, SLEEPS) as leader:
        first, second = ranks_of(tmp_path)
        os.kill(second, signal.SIGKILL)
        _, said = leader.communicate(timeout=120)
        assert leader.returncode == 128 + signal.SIGKILL
        assert said.startswith("oatmill: learner rank ")
        assert "was killed by SIGKILL; the other ranks were ended" in said
        assert not psutil.pid_exists(first)


def test_a_deaf_rank_is_killed_when_another_one_has_failed(tmp_path: Path) -> None:
    with group(tmp_path, f"if rank: ready(); time.sleep(0.5); sys.exit(3)\n{DEAF}") as leader:
        pids = ranks_of(tmp_path)
        began = time.monotonic()
        leader.communicate(timeout=120)
        assert leader.returncode == 3
        assert time.monotonic() - began < 4
        assert all_end(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_rank_and_an_orderly_end_of_all_is_0(tmp_path: Path, number: signal.Signals) -> None:
    with group(tmp_path, OBEYS) as leader:
        ranks_of(tmp_path)
        leader.send_signal(number)
        _, said = leader.communicate(timeout=120)
        assert (leader.returncode, said) == (0, "")
        assert {path.name for path in tmp_path.glob("asked-*")} == {"asked-0", "asked-1"}


def test_bad_input_is_said_once_and_is_exit_code_2_even_if_another_rank_breaks_down_over_it(tmp_path: Path) -> None:
    code = "inherit(); say_last('oatmill: error: expected a, got b\\n', shown=False)\nif rank:\n    sys.exit(2)\nos._exit(1)"
    with group(tmp_path, code) as leader:
        _, said = leader.communicate(timeout=120)
        assert (leader.returncode, said) == (2, "oatmill: error: expected a, got b\n")


def test_ranks_do_not_outlive_their_leader_even_if_they_are_deaf(tmp_path: Path) -> None:
    with group(tmp_path, DEAF) as leader:
        pids = ranks_of(tmp_path)
        leader.kill()
        assert all_end(pids)


def test_without_a_temporary_folder_there_is_one_line(tmp_path: Path) -> None:
    code = "import sys, tempfile; from learner.ranks import spawn; sys.argv = ['spawn', '2']; sys.exit(spawn.main())"
    nowhere = os.environ | {"TMPDIR": str(tmp_path / "gone")}
    # Python's list of temporary folders ends with the present one, so this one cannot be written to either.
    patched = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/proc/nowhere']\n" + code
    shown = subprocess.run([sys.executable, "-c", patched], cwd=ROOT, env=nowhere, capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert shown.stderr == (
        "oatmill: error: several ranks need a temporary folder (No usable temporary directory found in ['/proc/nowhere']); "
        "set TMPDIR to one\n"
    )


def test_a_rank_that_was_asked_to_stop_stops_the_group_in_order(tmp_path: Path) -> None:
    code = "if rank == 0:\n    signal.signal(signal.SIGTERM, leave)\n    ready()\n    time.sleep(60)\n"
    follows = "while not (folder / 'asked-0').exists():\n    time.sleep(0.02)\nsay_last('follows', shown=False)\nsys.exit(75)"
    with group(tmp_path, code + follows) as leader:
        (asked,) = ranks_of(tmp_path, count=1)
        os.kill(asked, signal.SIGTERM)
        _, said = leader.communicate(timeout=60)
    assert (leader.returncode, said) == (0, "")
