"""A learner as a container's program: orderly ends, restarts from the newest checkpoint, the end of the run, a hang."""

from __future__ import annotations

import json
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

from oatmill.process.exit_codes import RANK_STOPPED
from tests.ports import free_ports
from tests.system.real_runs import SMALL, command, environment


class Roles:
    """Replay, one actor and learners, started by hand.

    Args:
        folder: the working folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.run_dir = folder, folder / "run"
        self.port = free_ports()
        self.running: list[subprocess.Popen[str]] = []

    def start(
        self, *arguments: str, budget: int = 10**9, ranks: int = 1, rank_of: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a role; `rank_of` has the variables of one rank of several."""
        settings = [*SMALL, f"trainer.total_timesteps={budget}", "trainer.checkpoint_every=5", f"trainer.learners={ranks}"]
        own = {"OATMILL_ADDRESS": f"tcp://127.0.0.1:{self.port + 2}"}
        process = subprocess.Popen(
            [*command(*arguments), "cartpole", *settings],
            cwd=self.folder,
            env=environment() | own | (rank_of or {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def learner(self, *, budget: int = 10**9) -> subprocess.Popen[str]:
        """Start the learner as a container does."""
        return self.start("learner", "--in-container", "--run-dir", "run", budget=budget)

    def steps(self) -> list[int]:
        """The learner steps that were reported, in order."""
        path = self.run_dir / "metrics.jsonl"
        return [json.loads(line)["learner_step"] for line in path.read_text().splitlines()] if path.exists() else []

    def until_step(self, step: int) -> None:
        """Wait for a learner step."""
        deadline = time.monotonic() + 100
        while not (steps := self.steps()) or steps[-1] < step:
            assert time.monotonic() < deadline, steps
            time.sleep(0.1)


@contextmanager
def roles(folder: Path) -> Iterator[Roles]:
    """Roles that are gone at the end."""
    running = Roles(folder)
    running.start("replay", "--run-dir", "server", "--listen", f"tcp://127.0.0.1:{running.port}")
    running.start("actor")
    try:
        yield running
    finally:
        for process in running.running:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            for child in family:
                child.kill()
            process.kill()
            process.communicate()


def test_sigterm_ends_it_with_0_and_the_next_one_goes_on_to_the_end_of_the_run(tmp_path: Path) -> None:
    with roles(tmp_path) as running:
        replay, actor = running.running
        first = running.learner()
        running.until_step(3)
        first.send_signal(signal.SIGTERM)
        _, said = first.communicate(timeout=120)
        assert (first.returncode, "was asked to end and ended with 0" in said) == (0, True), said
        before = running.steps()[-1]
        # Another budget is the same run. A learner step takes 8 x 64 env steps, and 20 of them keep the batch from shrinking.
        second = running.learner(budget=(before + 30) * 512)
        _, said = second.communicate(timeout=120)
        assert second.returncode == 0, said
        assert running.steps() == [*range(1, before + 31)]
        _, said = actor.communicate(timeout=120)  # the run is over: nobody asked the actor but the hub
        assert actor.returncode == 0, said
        assert replay.poll() is None


@pytest.mark.slow
def test_a_learner_that_is_killed_is_an_exit_code_for_the_engine(tmp_path: Path) -> None:
    with roles(tmp_path) as running:
        learner = running.learner()
        running.until_step(1)
        for child in psutil.Process(learner.pid).children():
            child.kill()
        learner.communicate(timeout=120)
        assert learner.returncode == 128 + signal.SIGKILL


HANGS = """
import sys
from deploy.engines import learner_entry
from oatmill.process.http import HttpServer, Pages
from prometheus_client import CollectorRegistry

learner_entry.LOOK_EVERY_S = 0.1
healthy = True
server = HttpServer("127.0.0.1", 0, Pages(CollectorRegistry(), lambda: healthy, lambda: True))
port = int(server.url.rpartition(":")[2].partition("/")[0])
entry = learner_entry.LearnerEntry(["sleep", "60"], {"PATH": "/bin:/usr/bin"}, port=port, hung_after_s=1.0)
import threading, time
def break_down():
    global healthy
    time.sleep(1.0)
    healthy = False
threading.Thread(target=break_down).start()
sys.exit(entry.wait())
"""


def test_a_learner_that_hangs_is_killed() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", HANGS],
        env=environment() | {"PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (shown.returncode, b"has made no progress for" in shown.stderr) == (137, True), shown.stderr


@pytest.mark.slow
def test_a_group_of_ranks_ends_in_order_too(tmp_path: Path) -> None:
    with roles(tmp_path) as running:
        learner = running.start("learner", "--in-container", "--run-dir", "run", ranks=2)
        running.until_step(2)
        learner.send_signal(signal.SIGTERM)
        _, said = learner.communicate(timeout=120)
        assert learner.returncode == 0, said
        assert "Traceback" not in said
        assert (tmp_path / "run" / "checkpoints" / "latest").exists()


def test_a_rank_that_was_asked_to_end_does_not_end_the_run(tmp_path: Path) -> None:
    """Ranks in two containers, as on two nodes: one is drained, and both start again somewhere else."""
    meet = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    words = ("learner", "--in-container", "--run-dir", "run")
    with roles(tmp_path) as running:
        _, actor = running.running
        reached = 0
        for asked in (1, 0):
            variables = meet | {"MASTER_PORT": str(free_ports())}
            both = [running.start(*words, ranks=2, rank_of=variables | {"RANK": str(rank)}) for rank in range(2)]
            running.until_step(reached + 2)
            both[asked].send_signal(signal.SIGTERM)
            said = [rank.communicate(timeout=120)[1] for rank in both]
            assert (both[asked].returncode, both[1 - asked].returncode) == (0, RANK_STOPPED), said
            assert "another learner rank was asked to stop" in said[1 - asked]
            reached = running.steps()[-1]
            assert running.steps() == [*range(1, reached + 1)]  # the checkpoint of the last step was saved
        assert actor.poll() is None
