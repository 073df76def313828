"""The processes of a run listen only at the addresses that they were asked to use, however the run was started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from protocol.security.keys import make_keys
from tests.ports import free_ports
from tests.system.real_runs import ENDLESS, Train, command, environment, oatmill, training

LOOPBACK = {"127.0.0.1", "::1"}


def listeners(*pids: int) -> set[tuple[str, int]]:
    """The addresses at which these processes and all of their children listen."""
    family = [one for pid in pids for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
    found = []
    for process in family:
        with suppress(psutil.NoSuchProcess):  # a copy that only builds an environment ends soon after a start
            found += process.net_connections(kind="inet")
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}


def until_trained(train: Train, ranks: int) -> None:
    train.until(lambda: train.learner_steps() >= 1 and len(train.pids("learner")) == ranks, within_s=150)


@pytest.mark.slow  # without the slow tests, tests/system/test_ending.py checks this in a run with two ranks
def test_a_local_run_with_two_ranks_listens_on_the_loopback_alone(tmp_path: Path) -> None:
    with training(tmp_path, "--learners", "2", *ENDLESS) as train:
        until_trained(train, 2)
        found = listeners(train.process.pid)
        assert {ip for ip, _ in found} <= LOOPBACK, found
        # The metrics pages of replay and rank 0, and one gloo port per rank.
        assert len(found) == 4
        assert oatmill(tmp_path, "stop").returncode == 0
        assert train.end() == 0, train.errors.read_text()


@pytest.mark.slow
def test_a_local_run_with_one_rank_listens_for_its_metrics_alone(tmp_path: Path) -> None:
    with training(tmp_path, *ENDLESS) as train:
        until_trained(train, 1)
        found = listeners(train.process.pid)
        assert [ip for ip, _ in found] == ["127.0.0.1", "127.0.0.1"], found


@contextmanager
def roles(folder: Path, *arguments: list[str]) -> Iterator[list[int]]:
    """Roles that are started one by one, with keys."""
    running = [
        subprocess.Popen(
            command(role[0], "cartpole", *ENDLESS, *role[1:]),
            cwd=folder,
            env=environment() | {"OATMILL_KEYS": str(folder / "keys"), "OATMILL_RUN_DIR": str(folder / "run")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for role in arguments
    ]
    try:
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(60)


@pytest.mark.slow
def test_roles_by_hand_listen_where_replay_was_told_to_and_on_the_loopback(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    port = free_ports()
    address = ["--address", f"tcp://127.0.0.1:{port + 2}"]
    replay = ["replay", "--listen", f"tcp://0.0.0.0:{port}"]
    learner = ["learner", "trainer.learners=2", *address]
    with roles(tmp_path, replay, ["actor", *address], learner) as pids:
        reports, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 150
        while not reports.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        found = listeners(*pids)
        asked = {("0.0.0.0", port + offset) for offset in range(4)}
        assert {one for one in found if one[0] not in LOOPBACK} == asked


NAMELESS = """
hostname a-name-that-resolves-nowhere
python -c "
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH14x', b'lo', 0x41))  # SIOCSIFFLAGS: up, running
try:
    socket.gethostbyname(socket.gethostname())
except OSError:
    print('no name', flush=True)
"
exec python -m deploy train cartpole --run-dir run --learners 2 "$@" trainer.total_timesteps=2048
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_two_ranks_train_on_a_host_whose_own_name_does_not_resolve(tmp_path: Path) -> None:
    alone = ["unshare", "--uts", "--net", "bash", "-c", NAMELESS, "bash"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shown = subprocess.run(
        [*alone, *ENDLESS],
        cwd=tmp_path,
        env=environment() | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert shown.stdout.startswith("no name"), shown.stderr
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "run" / "summary.json").exists()
