"""Flame graphs of a learner and of actors in a real run: `python -m benchmarks.profiles FOLDER`; needs py-spy.

It starts `oatmill train`, waits until the learner has done some steps, and samples the main thread of one
of the run's processes for some time. Run it as root if the system does not allow a process to inspect
another one (`kernel.yama.ptrace_scope`).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.flame import picture
from benchmarks.processes import TIMEOUT_S, environment, oatmill
from benchmarks.runs import reports_of

WARM_UP_REPORTS = 20
ENOUGH_STEPS = 1_000_000_000
RATE = 100


@dataclass(frozen=True)
class Profile:
    """One picture.

    Attributes:
        recipe: the recipe to train.
        role: the package of the sampled process.
        title: the title of the picture.
    """

    recipe: str
    role: str
    title: str


PROFILES = {
    "flame-learner-cogs": Profile("cogs_v_clips", "learner", "the learner on cogs"),
    "flame-learner-cartpole": Profile("cartpole", "learner", "the learner on CartPole"),
    "flame-actor-cartpole": Profile("cartpole", "actors", "an actor on CartPole, vectorised"),
}


def process_of(parent: psutil.Process, role: str) -> int | None:
    """The first child process that runs `python -m ROLE`."""
    found = [child.pid for child in parent.children() if ["-m", role] == child.cmdline()[1:3]]
    return min(found, default=None)


def wait_for_reports(run: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the learner has done its first steps.

    Raises:
        SystemExit: if the run ends before that.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and len(reports_of(run)) >= WARM_UP_REPORTS:
            return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise SystemExit(f"the run in {run} came to no {WARM_UP_REPORTS} reports")


def stacks_of(spy: str, pid: int | None, seconds: int, target: Path) -> list[str]:
    """The stack samples that py-spy takes of a process."""
    how = ["--duration", str(seconds), "--rate", str(RATE), "--nolineno", "--format", "raw"]
    subprocess.run([spy, "record", "--pid", str(pid), *how, "--output", str(target)], check=True)
    return target.read_text().splitlines()


def draw(profile: Profile, target: Path, spy: str, seconds: int) -> None:
    """Start a run, sample one of its processes, and stop the run."""
    with TemporaryDirectory(prefix="oatmill-bench-") as folder:
        run = Path(folder) / "run"
        command = oatmill("train", profile.recipe, f"trainer.total_timesteps={ENOUGH_STEPS}", "--run-dir", str(run))
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_reports(run, process)
            pid = process_of(psutil.Process(process.pid), profile.role)
            target.write_text(picture(stacks_of(spy, pid, seconds, Path(folder) / "stacks"), profile.title))
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def main() -> int:
    """Draw all pictures, or the given ones."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profiles", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder for the pictures")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROFILES)}; default: all")
    parser.add_argument("--seconds", type=int, default=20, help="how many seconds each process is sampled (20)")
    parser.add_argument(
        "--py-spy", default=shutil.which("py-spy"), metavar="FILE", help="the path of py-spy, if it is not on the PATH"
    )
    options = parser.parse_args()
    if options.py_spy is None:
        parser.exit(2, "benchmarks: error: py-spy was not found: pip install py-spy, or give --py-spy FILE\n")
    if unknown := [name for name in options.names if name not in PROFILES]:
        parser.exit(2, f"benchmarks: error: there is no profile {unknown[0]}; there are {', '.join(PROFILES)}\n")
    for name in options.names or PROFILES:
        draw(PROFILES[name], options.folder / f"{name}.svg", options.py_spy, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
