"""Writes the batch script of a run on Slurm, prepares the run's folder, and submits the script.

One job is one run. `deploy.engines.slurm_job` is the job's program: it supervises the run and starts each role with `srun`.
"""

from __future__ import annotations

import math
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from oatmill.errors import UserError
from oatmill.files.atomic import write_file
from protocol.security.keys import is_complete, make_keys
from runner.folder import RunFolder
from runner.settings import RunSettings, write_config

SIGNAL_BEFORE_S = 120
"""The job is told this long before its time limit. Slurm may be up to a minute early."""
CPUS_OF_REPLAY = 2
SUBMIT_WITHIN_S = 60.0


@dataclass(frozen=True)
class SlurmJob:
    """A run as one Slurm job.

    Attributes:
        settings: the run's settings, with its numbers of actors and learner ranks.
        recipe: the recipe's name.
        preset: the preset's name, if there is one.
        run_dir: the run folder, absolute, on a file system that all nodes share.
        keys: the folder of keys; None makes keys in the run folder.
        nodes: the number of nodes.
        cpus: the CPUs of each node; None counts one for each actor and rank, and two for the replay server.
        gpus: the GPUs of each node, one for each rank there.
        asked: further options of sbatch by name, such as `partition`; None for those that were not given.
        log_level: the log level of all roles.
    """

    settings: RunSettings
    recipe: str
    preset: str | None
    run_dir: Path
    keys: Path | None
    nodes: int
    cpus: int | None
    gpus: int
    asked: dict[str, str | None]
    log_level: str

    @property
    def ranks_per_node(self) -> int:
        """The learner ranks on each node that has any.

        Raises:
            UserError: if the ranks cannot be divided among the nodes.
        """
        ranks = self.settings.trainer.learners
        here = min(ranks, self.gpus) if self.gpus else math.ceil(ranks / self.nodes)
        if ranks % here or ranks // here > self.nodes:
            each = f" with {self.gpus} GPUs each" if self.gpus else ""
            raise UserError(
                f"--learners {ranks} cannot be divided among {self.nodes} nodes{each}: expected as many ranks on every "
                "node that has any; change --learners, --nodes or --gpus-per-node"
            )
        return here

    @property
    def script_path(self) -> Path:
        """The batch script in the run folder."""
        return self.run_dir / "job.sbatch"

    @property
    def keys_path(self) -> Path:
        """The folder of keys."""
        return self.keys or self.run_dir / "keys"

    def script(self) -> str:
        """The batch script."""
        actors = math.ceil(self.settings.actors.count / self.nodes)
        cpus = self.cpus or actors + self.ranks_per_node + CPUS_OF_REPLAY
        options = {
            "job-name": f"oatmill-{self.run_dir.name}",
            "nodes": str(self.nodes),
            "ntasks-per-node": "1",
            "cpus-per-task": str(cpus),
            "gpus-per-node": str(self.gpus) if self.gpus else None,
            **self.asked,
            "output": f"{self.run_dir}/slurm-%j.out".replace("%", "%%").replace("%%j", "%j"),
            "open-mode": "append",
            "signal": f"B:USR1@{SIGNAL_BEFORE_S}",
        }
        lines = [f"#SBATCH --{name}={shlex.quote(value)}" for name, value in options.items() if value is not None]
        program = [sys.executable, "-m", "deploy.engines.slurm_job", str(self.run_dir), "--recipe", self.recipe]
        program += [] if self.preset is None else ["--preset", self.preset]
        program += ["--keys", str(self.keys_path), "--ranks-per-node", str(self.ranks_per_node), "--log-level", self.log_level]
        return "\n".join(["#!/bin/bash", *lines, "#SBATCH --requeue", BODY.replace("PROGRAM", shlex.join(program))])


WAIT = """[ -z "$asked" ] || kill -TERM "$child" 2>/dev/null  # asked before the child was known
wait "$child"
code=$?
# A signal ends `wait`, not the process.
while kill -0 "$child" 2>/dev/null; do
  wait "$child"
  code=$?
done
"""
"""Waits in Bash until the process `$child` has ended, and sets `$code` to its exit code. A trap for signals sets `$asked`."""

BODY = f"""
# USR1 comes before the time limit: the run saves a checkpoint and ends, and the job is queued again and goes on from there.
# TERM comes with scancel, or with a preemption, after which Slurm itself queues the job again.
asked=
trap 'asked=USR1; kill -TERM "$child"' USR1
trap 'asked=TERM; kill -TERM "$child"' TERM
PROGRAM &
child=$!
{WAIT}if [ "$asked" = USR1 ]; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
"""


def submit(job: SlurmJob, *, resume: bool) -> str:
    """Prepare the run's folder and submit the job; returns what sbatch printed.

    Args:
        job: the run.
        resume: whether the folder is that of an ended run.

    Raises:
        UserError: if the folder is in use, or Slurm does not take the job. What was created is removed then.
    """
    if shutil.which("sbatch") is None:
        raise UserError("sbatch was not found; run this on a machine that submits jobs to Slurm, or use --dry-run")
    script = job.script()
    folder = RunFolder.existing(job.run_dir) if resume else RunFolder.new(job.run_dir, job.recipe)
    try:
        if job.keys is None and not is_complete(job.keys_path):
            make_keys(job.keys_path)
        write_config(job.settings, folder.config)
        write_file(job.script_path, script)
        said = sbatch(job.script_path)
    except UserError:
        folder.release(remove=True)
        raise
    except OSError as error:
        folder.release(remove=True)
        raise UserError(f"--run-dir {job.run_dir} cannot be written to: {error.strerror}; choose another folder") from None
    folder.release()
    return said


def sbatch(script: Path) -> str:
    """Submit a batch script; returns what sbatch printed.

    Raises:
        UserError: if Slurm does not take it, with its reason.
    """
    try:
        done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, timeout=SUBMIT_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"sbatch did not answer within {SUBMIT_WITHIN_S:g} s; look at `sinfo` and `squeue`") from None
    if done.returncode:
        raise UserError(f"sbatch refused the job: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout.strip()
