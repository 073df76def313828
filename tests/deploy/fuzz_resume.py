"""Damages one file of a run folder and has whole commands go on: `python -m tests.deploy.fuzz_resume [ROUNDS] [SEED]`.

`oatmill eval` and `oatmill train --resume` on a run that has ended, and the replay server of a run that goes on. Each goes on
(0), or ends with one line (1 or 2). A traceback, a hang and a process that is started again and again are never right.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil

from tests.deploy.fuzz_run_folder import damages, ended_run
from tests.system.real_runs import ENDLESS, SMALL, Train, oatmill, training

MORE = ("trainer.total_timesteps=6000",)
DURABLE = ("replay.acknowledge=durable", "trainer.checkpoint_every=5")
WITHIN_S = 120
MOST_RESTARTS = 3
COMMANDS = ("eval", "resume", "replay")
GONE, FOLDER = "gone", "a folder in its place"
SKIPPED = {".lock", "plan.txt", ".reserve"}


def files(run_dir: Path, command: str) -> list[Path]:
    """What a command may read, below the run's folder: `eval` a checkpoint, a replay server what is its own."""
    found = [path for path in run_dir.rglob("*") if path.is_file() and not path.is_symlink() and path.name not in SKIPPED]
    below = sorted(path.relative_to(run_dir) for path in found if "logs" not in path.relative_to(run_dir).parts)
    if command == "eval":
        return [path for path in below if path.parts[0] == "checkpoints"]
    if command == "replay":
        return [path for path in below if path.parts[0] in {"log", "run_id", "policy_version"}]
    return below


def damage(run_dir: Path, command: str, draw: random.Random) -> str:
    """Damage a file; which, and how."""
    kinds = {path.suffix + path.name[:3] for path in files(run_dir, command)}  # a big log has as many chances as a small file
    wanted = draw.choice(sorted(kinds))
    name = draw.choice([path for path in files(run_dir, command) if path.suffix + path.name[:3] == wanted])
    kinds_of_damage: dict[str, bytes | None] = {**damages((run_dir / name).read_bytes(), draw), GONE: None, FOLDER: None}
    kind = draw.choice(sorted(kinds_of_damage))
    content = kinds_of_damage[kind]
    if content is None:
        (run_dir / name).unlink()
    else:
        (run_dir / name).write_bytes(content)
    if kind == FOLDER:
        (run_dir / name).mkdir()
    return f"{command}, {name}, {kind}"


def ending(run_dir: Path, command: str) -> str:
    """How a command on a damaged folder ends."""
    if command == "eval":
        words: tuple[str, ...] = ("eval", str(run_dir), "--episodes", "2")
    else:
        words = ("train", "cartpole", "--run-dir", str(run_dir), "--resume", *SMALL, "actors.count=1", *DURABLE, *MORE)
    try:
        done = oatmill(run_dir.parent, *words, timeout_s=WITHIN_S)
    except subprocess.TimeoutExpired:
        return "hang"
    return judged(done.returncode, done.stderr, run_dir)


def judged(code: int, errors: str, run_dir: Path) -> str:
    """An ending in words; those that are never right begin with `wrong`."""
    logs = "".join(path.read_text(errors="replace") for path in run_dir.glob("logs/*.log"))
    if "defect" in errors or "Traceback" in errors + logs:
        return f"wrong: a traceback, {(errors + logs).strip()[-300:]}"
    lines = [line for line in errors.splitlines() if line.startswith("oatmill: error")]
    if code not in {0, 1, 2} or (code and len(lines) != 1):
        return f"wrong: exit code {code}, {errors[-300:]}"
    events = run_dir / "events.jsonl"
    restarts = events.read_bytes().count(b"_restarted") if events.is_file() else 0
    return f"wrong: {restarts} restarts" if restarts > MOST_RESTARTS else f"exit code {code}"


def replay_goes_on(train: Train, draw: random.Random) -> tuple[str, str]:
    """Kill the replay server of a run that goes on and damage a file of its own; what was damaged, and how that ends."""
    os.kill(train.process.pid, signal.SIGSTOP)  # nothing is started again before the file is damaged
    (hub,) = [psutil.Process(pid) for pid in train.pids("replay")]
    both = [hub, *hub.children()]
    for process in both:
        process.kill()
    psutil.wait_procs(both[1:], timeout=10)  # the first is the supervisor's to bury, which is stopped
    what = damage(train.run_dir, "replay", draw)
    steps = train.learner_steps()
    os.kill(train.process.pid, signal.SIGCONT)
    try:
        train.until(lambda: train.learner_steps() >= steps + 3, within_s=60)
    except AssertionError as error:
        if train.process.poll() is None:
            return what, f"wrong: hang, {error}"
        return what, judged(train.process.returncode, train.errors.read_text(), train.run_dir)
    train.process.send_signal(signal.SIGINT)
    return what, judged(train.end(), train.errors.read_text(), train.run_dir)


def tried(folder: Path, template: Path, command: str, draw: random.Random) -> tuple[str, str]:
    """Damage a file of a copy of an ended run, or of a new run, and see how it ends."""
    if command == "replay":
        with training(folder, *ENDLESS, *DURABLE) as train:
            train.until(lambda: train.learner_steps() >= 8, within_s=60)
            return replay_goes_on(train, draw)
    run_dir = folder / "run"
    shutil.copytree(template, run_dir, symlinks=True)
    what = damage(run_dir, command, draw)
    return what, ending(run_dir, command)


def count(folder: Path, commands: list[str], seed: int) -> tuple[Counter[str], list[str]]:
    """Try each command in turn; how they ended, and what was wrong."""
    draw, outcomes, wrong = random.Random(seed), Counter[str](), []
    template = ended_run(folder)
    for number, command in enumerate(commands):
        place = folder / str(number)
        place.mkdir()
        what, how = tried(place, template, command, draw)
        outcomes[f"{command}: {how[:60]}"] += 1
        wrong += [f"{what}: {how}"] if not how.startswith("exit code") else []
        shutil.rmtree(place)
    return outcomes, wrong


def main() -> None:
    """Print the outcomes."""
    rounds, seed = (int(word) for word in (*sys.argv[1:], *("5", "0")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        outcomes, wrong = count(Path(folder), list(COMMANDS) * rounds, seed)
    for how, times in sorted(outcomes.items()):
        sys.stdout.write(f"{times:6d} {how}\n")
    sys.stdout.write("\n".join(wrong) + "\n")


if __name__ == "__main__":
    main()
