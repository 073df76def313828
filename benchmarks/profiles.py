"""Flame graphs of a learner and of actors in a real run: `python -m benchmarks.profiles FOLDER`; needs py-spy.

Starts `oatmill train`, waits until the learner has taken some steps, and samples the main thread of
one of its processes for a while. Where the system lets no process look into another
(`kernel.yama.ptrace_scope`), run it as root.
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
        recipe: what is trained.
        role: the package of the process that is looked at.
        title: of the picture.
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
    """The first child of that role, `python -m ROLE`."""
    found = [child.pid for child in parent.children() if ["-m", role] == child.cmdline()[1:3]]
    return min(found, default=None)


def wait_for_reports(run: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the learner is past its first steps.

    Raises:
        SystemExit: if the run ends before.
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
    """What py-spy sees in a process."""
    how = ["--duration", str(seconds), "--rate", str(RATE), "--nolineno", "--format", "raw"]
    subprocess.run([spy, "record", "--pid", str(pid), *how, "--output", str(target)], check=True)
    return target.read_text().splitlines()


def draw(profile: Profile, target: Path, spy: str, seconds: int) -> None:
    """Run, look, stop."""
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
    """All pictures, or some."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profiles", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROFILES)}; all of them without one")
    parser.add_argument("--seconds", type=int, default=20, help="how long each process is looked at (20)")
    parser.add_argument(
        "--py-spy", default=shutil.which("py-spy"), metavar="FILE", help="the program, if it is not on the PATH"
    )
    options = parser.parse_args()
    if options.py_spy is None:
        parser.exit(2, "benchmarks: error: there is no py-spy: pip install py-spy, or say --py-spy FILE\n")
    if unknown := [name for name in options.names if name not in PROFILES]:
        parser.exit(2, f"benchmarks: error: there is no profile {unknown[0]}; there are {', '.join(PROFILES)}\n")
    for name in options.names or PROFILES:
        draw(PROFILES[name], options.folder / f"{name}.svg", options.py_spy, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
