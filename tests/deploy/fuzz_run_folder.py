"""Damages one file of an ended run's folder at a time and counts how commands end: `python -m tests.deploy.fuzz_run_folder`.

Every command goes on (0), or ends with one line and exit code 2. A run that failed has exit code 1, and so has `doctor` that
finds fault; "this is a bug" is never right.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from deploy.cli.entry import run_command
from tests.system.real_runs import SMALL, oatmill

COMMANDS = ("status", "plot", "doctor", "top")
SKIPPED = {".lock", "plan.txt"}
HUGE = str(2**53 - 1).encode()


def ended_run(folder: Path) -> Path:
    """A short run that has ended well."""
    done = oatmill(
        folder,
        *("train", "cartpole", "--run-dir", "run", *SMALL, "actors.count=1", "trainer.total_timesteps=4000"),
        *("replay.acknowledge=durable", "trainer.checkpoint_every=5"),
        timeout_s=120,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def state_files(run_dir: Path) -> list[Path]:
    """What a run folder keeps, below it."""
    found = [path for path in run_dir.rglob("*") if path.is_file() and not path.is_symlink() and path.name not in SKIPPED]
    return sorted(path.relative_to(run_dir) for path in found if "logs" not in path.parts and "step-" not in str(path))


def damages(content: bytes, draw: random.Random) -> dict[str, bytes]:
    """One of each kind."""
    flipped = bytearray(content or b"x")
    flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
    numbers = b"".join(HUGE if byte in b"0123456789" and draw.random() < 0.1 else bytes([byte]) for byte in content)
    return {
        "bit flip": bytes(flipped),
        "truncated": content[: draw.randrange(len(content) + 1)],
        "empty": b"",
        "garbage": draw.randbytes(200),
        "list": b"[1, 2, 3]\n",
        "wrong types": b'{"ledger": 5, "processes": "x", "control": [], "endpoints": 7, "losses": [1], "time": {}}\n',
        "huge numbers": numbers,
    }


def ending(command: str, run_dir: Path) -> str:
    """How a command ends."""
    errors, output = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        code = run_command([command, str(run_dir)] if command in {"plot", "doctor"} else [command, "--run-dir", str(run_dir)])
    said = errors.getvalue()
    if "this is a bug" in said or "Traceback" in said:
        return f"defect: {said.strip()[:160]}"
    if code == 2:
        return "one line, exit code 2" if said.count("\n") == 1 else f"{said.count(chr(10))} lines: {said[:100]}"
    return f"exit code {code}"


def count(run_dir: Path, rounds: int, seed: int, commands: tuple[str, ...] = COMMANDS) -> tuple[Counter[str], list[str]]:
    """Damage every file in every way, and run every command."""
    draw, outcomes, defects = random.Random(seed), Counter[str](), []
    for _ in range(rounds):
        for name in state_files(run_dir):
            path = run_dir / name
            content = path.read_bytes()
            for kind, damaged in damages(content, draw).items():
                path.write_bytes(damaged)
                for command in commands:
                    how = ending(command, run_dir)
                    outcomes[f"{command}: {how.partition(':')[0]}"] += 1
                    defects += [f"{command}, {name}, {kind}: {how}"] if how.startswith("defect") else []
            path.write_bytes(content)
    return outcomes, defects


def main() -> None:
    """Print the outcomes."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = ended_run(Path(folder))
        outcomes, defects = count(run_dir, int(sys.argv[1]) if len(sys.argv) > 1 else 1, 0)
        shutil.rmtree(run_dir)
    for how, times in sorted(outcomes.items()):
        sys.stdout.write(f"{times:6d} {how}\n")
    sys.stdout.write("\n".join(sorted(set(defects))) + "\n")


if __name__ == "__main__":
    main()
