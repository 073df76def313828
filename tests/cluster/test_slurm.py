"""Runs on a real Slurm: slurmctld, munged and two slurmd on this machine, as two nodes of one cluster."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_ports
from tests.system.real_runs import ENDLESS, SMALL, command, environment

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=4000
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        any(shutil.which(name, path=PATH) is None for name in DAEMONS),
        reason="Slurm is not installed: apt-get install slurm-wlm munge",
    ),
]


class SlurmCluster:
    """The daemons, and the commands of a user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"
        for name in ("state", "spool-one", "spool-two"):
            (folder / name).mkdir()
        first = free_ports(3)
        ports = range(first, first + 3)
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        self.config.write_text(CONFIG.format(host=socket.gethostname(), user=user, folder=folder, ports=ports))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self.variables = environment() | {"SLURM_CONF": str(self.config), "PATH": PATH}
        self.daemons: list[subprocess.Popen[bytes]] = []
        files = [f"--{name}={folder}/munge.{ending}" for name, ending in MUNGE_FILES]
        self.start("munged", "--foreground", "--force", *files)
        self.until((folder / "munge.socket").exists)
        self.start("slurmctld", "-D")
        for node in ("one", "two"):
            self.start("slurmd", "-D", "-N", node)
        self.until(lambda: self.do("sinfo", "-h", "-o", "%T").split() == ["idle"])

    def start(self, *words: str) -> None:
        """Start a daemon in the foreground."""
        with (self.folder / f"{words[0]}-{len(self.daemons)}.log").open("w") as log:
            self.daemons.append(subprocess.Popen(words, env=self.variables, stdout=log, stderr=log))

    def do(self, *words: str) -> str:
        """Run a command to its end; what it printed."""
        done = subprocess.run(
            words, cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=120, check=False
        )
        return done.stdout if done.returncode == 0 else ""

    def oatmill(self, *words: str) -> str:
        """Run `oatmill` to its end; what it printed."""
        return self.do(*command(*words))

    def submit(self, *words: str) -> str:
        """`oatmill slurm cartpole WORDS` with the run folder `run`; the number of the job."""
        said = self.oatmill("slurm", "cartpole", "--run-dir", "run", *words)
        assert said.startswith("Submitted batch job "), said
        return said.split()[3]

    def job(self, number: str) -> dict[str, str]:
        """What Slurm says of a job."""
        words = self.do("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of a file in the run folder."""
        path = self.folder / "run" / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def until(self, done: Callable[[], bool], within_s: float = 240) -> None:
        """Wait until a condition is true."""
        deadline = time.monotonic() + within_s
        while not done():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.5)

    def said(self) -> str:
        """The output of daemons, jobs and roles, for a failure."""
        files = [*self.folder.glob("*.log"), *self.folder.glob("run/*.out"), *self.folder.glob("run/logs/*")]
        return "\n".join(f"== {path}\n{path.read_text()[-1500:]}" for path in files)

    def close(self) -> None:
        """End all jobs and daemons."""
        self.do("scancel", "--me")
        self.until(lambda: not self.do("squeue", "-h").split(), within_s=60)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            daemon.wait(30)


MUNGE_FILES = (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A cluster of two nodes, taken down at the end."""
    made = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.close()


def test_a_run_with_ranks_on_two_nodes_ends_with_its_budget(slurm: SlurmCluster) -> None:
    job = slurm.submit(*SMALL, "trainer.total_timesteps=10240", "--nodes", "2", "--actors-per-node", "1", "--learners", "2")
    slurm.until(lambda: slurm.job(job)["JobState"] not in {"PENDING", "RUNNING", "COMPLETING"})
    shown = slurm.job(job)
    assert (shown["JobState"], shown["ExitCode"]) == ("COMPLETED", "0:0"), slurm.said()
    summary = json.loads((slurm.folder / "run" / "summary.json").read_text())
    assert (summary["outcome"], summary["env_steps"]) == ("done", 10_240)
    assert (slurm.folder / "run" / "keys" / "actor" / "secret.key").stat().st_mode & 0o077 == 0


def test_a_run_is_scaled_requeued_resumed_and_stopped(slurm: SlurmCluster) -> None:
    job = slurm.submit(*ENDLESS, "--nodes", "2", "--time", "1:00:00")
    slurm.until(lambda: len(slurm.lines("metrics.jsonl")) > 3)
    slurm.oatmill("scale", "--run-dir", "run", "--actors", "2")
    slurm.until(lambda: "2 of 2 actors live" in slurm.oatmill("status", "--run-dir", "run"))

    slurm.do("scancel", "--signal=USR1", "--batch", job)  # as Slurm does before the time limit
    slurm.until(lambda: sum(event["event"] == "started" for event in slurm.lines("events.jsonl")) > 1)
    before = slurm.lines("metrics.jsonl")[-1]["learner_step"]
    saved = json.loads((slurm.folder / "run" / "checkpoints" / "latest" / "manifest.json").read_text())["learner_step"]
    slurm.until(lambda: slurm.lines("metrics.jsonl")[-1]["learner_step"] > before)
    assert slurm.job(job)["Restarts"] == "1"
    assert [event["resume"] for event in slurm.lines("events.jsonl") if event["event"] == "started"] == [False, True]
    steps = [line["learner_step"] for line in slurm.lines("metrics.jsonl")]
    assert saved == before  # it saved its last step
    assert steps == list(range(1, len(steps) + 1))  # none was lost or trained twice

    slurm.oatmill("stop", "--run-dir", "run")
    slurm.until(lambda: slurm.job(job)["JobState"] == "COMPLETED")
    assert json.loads((slurm.folder / "run" / "summary.json").read_text())["outcome"] == "stopped"
