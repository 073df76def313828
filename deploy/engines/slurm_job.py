"""The program of a Slurm job: supervises a run, each of whose roles is a job step (`srun`) on one of the job's nodes.

It runs on the first node, beside the replay server and rank 0. Actors take turns on all nodes; ranks are on the first ones.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.engines.slurm import WAIT
from oatmill.errors import RunError
from oatmill.files.run_files import CONFIG_FILE
from oatmill.process.entry import run_to_exit
from runner.continuing import has_checkpoint
from runner.local.child import Child
from runner.local.job import Job
from runner.local.launcher import LocalLauncher
from runner.local.listening import bracketed
from runner.local.ports import PORTS_OF_REPLAY, free_ports
from runner.local.train import Options, train_here
from runner.settings import read_config

KILLED_WITHIN_S = 10.0
DISCARD_PORT = 9
TASK = f"""asked=
trap 'asked=1; kill -TERM "$child" 2>/dev/null' TERM USR1
(
  trap '' USR1
  [ "$SLURM_NTASKS" = 1 ] || export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
  exec "$@"
) &
child=$!
{WAIT}exit "$code"
"""
"""The shell of a task. srun passes USR1 on to all processes of its step, but ends the step at once when it gets TERM itself.
So the supervisor sends USR1, and the role gets TERM."""


@dataclass(frozen=True)
class Places:
    """Where the roles of a run are.

    Attributes:
        nodes: the names of the job's nodes; the first is this one.
        ranks: the number of learner ranks.
        ranks_per_node: the ranks on each node that has any.
    """

    nodes: Sequence[str]
    ranks: int
    ranks_per_node: int

    @property
    def nodes_of_learner(self) -> int:
        """The number of nodes that have learner ranks."""
        return self.ranks // self.ranks_per_node

    def prefix(self, role: str, number: int) -> list[str]:
        """The words before the command of a role that make it a job step."""
        nodes, tasks = [self.nodes[number % len(self.nodes) if role == "actor" else 0]], 1
        if role == "learner" and self.nodes_of_learner > 1:  # on one node, one task starts all ranks
            nodes, tasks = list(self.nodes[: self.nodes_of_learner]), self.ranks
        where = [f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}", f"--ntasks={tasks}"]
        where.append(f"--ntasks-per-node={tasks // len(nodes)}")
        shared = ["--overlap", "--overcommit", "--mem=0", "--cpu-bind=none", "--distribution=block", "--kill-on-bad-exit=1"]
        return ["srun", f"--job-name={role}-{number}", *where, *shared, "bash", "-c", TASK, role]


class JobStep(Child):
    """A role that `srun` starts on a node. Arguments as Child; the process is srun."""

    @property
    def ranks(self) -> list[int]:
        """The process id of srun, because the ranks are on other nodes."""
        return [self.pid]

    def terminate(self) -> None:
        """Ask the role to end; see TASK."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGUSR1)

    def kill_known(self) -> None:
        """Kill the role. At SIGTERM, srun kills all tasks of its step."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGTERM)
            self.wait(time.monotonic() + KILLED_WITHIN_S)
        super().kill_known()


class SlurmLauncher(LocalLauncher):
    """Starts each role of a run as a job step.

    Args:
        job: the run.
        stopped: returns whether the run was asked to stop.
        places: where the roles are.
    """

    child_type: type[Child] = JobStep
    forks_actors = False

    def __init__(self, job: Job, *, stopped: Callable[[], bool] = lambda: False, places: Places) -> None:
        super().__init__(job, stopped=stopped)
        self._places = places

    @property
    def _ranks(self) -> int:
        return 1 if self._places.nodes_of_learner > 1 else super()._ranks

    def _prefix(self, role: str, number: int) -> list[str]:
        return self._places.prefix(role, number)


def nodes_of_job(environ: Mapping[str, str]) -> list[str]:
    """The names of the job's nodes.

    Raises:
        RunError: if this is no Slurm job.
    """
    listed = environ.get("SLURM_JOB_NODELIST")
    if not listed:
        raise RunError("this is the program of a Slurm job; `oatmill slurm RECIPE` submits one")
    words = ["scontrol", "show", "hostnames", listed]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def address_towards(peer: str) -> str:
    """This machine's address on the way to another one; the address of its own name if that one is not known.

    Args:
        peer: a host name.
    """
    for host in (peer, socket.gethostname()):
        try:
            family, kind, _, _, place = socket.getaddrinfo(host, DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as probe:
                probe.connect(place)  # sends nothing
                return bracketed(str(probe.getsockname()[0]))
        except OSError:
            continue
    return "127.0.0.1"


def run(options: argparse.Namespace) -> int:
    """Train until the budget is spent or the job is told to stop; returns the exit code."""
    run_dir: Path = options.run_dir
    settings = read_config(run_dir / CONFIG_FILE)
    nodes = nodes_of_job(os.environ)
    places = Places(nodes, settings.trainer.learners, options.ranks_per_node)
    host = address_towards(nodes[-1] if len(nodes) > 1 else os.environ.get("SLURM_SUBMIT_HOST", ""))
    first = free_ports(PORTS_OF_REPLAY + 1)
    if places.nodes_of_learner > 1:
        os.environ.update(MASTER_ADDR=host.strip("[]"), MASTER_PORT=str(first + PORTS_OF_REPLAY))
    train_here(
        settings,
        recipe=options.recipe,
        preset=options.preset,
        options=Options(
            run_dir=run_dir,
            resume=has_checkpoint(run_dir),
            listen=f"tcp://{host}:{first}",
            log_level=options.log_level,
            keys=options.keys,
            launcher=functools.partial(SlurmLauncher, places=places),
            in_place=True,
        ),
    )
    return 0


def main(arguments: Sequence[str]) -> int:
    """Read the arguments that the batch script has, and run."""
    parser = argparse.ArgumentParser(prog="slurm_job", description="The program of a Slurm job.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--preset")
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--ranks-per-node", type=int, required=True)
    parser.add_argument("--log-level", required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return run_to_exit(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
