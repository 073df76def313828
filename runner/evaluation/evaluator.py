"""The evaluator of a run: plays its newest checkpoint again and again, always with the same seeds.

`python -m runner.evaluation.evaluator --config FILE --run-dir DIR`. It only reads checkpoints, adds lines to
`evaluations.jsonl`, which the learner reports, and points the link `best` to the checkpoint that played best. So no other
process waits for it, and a run goes on without it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from agent.checkpoint_manifest import BEST, LATEST, PLAYING, open_manifest
from learner.reporting.evaluations import EVALUATIONS_FILE
from oatmill.errors import OatmillError, RunError, UserError, one_line
from oatmill.files.atomic import append_line, replace_link
from oatmill.files.json_lines import last_line
from oatmill.files.run_files import CONFIG_FILE, EVENTS_FILE, LEARNER_FILE
from oatmill.process.entry import configure_logging, role_parser, run_to_exit
from oatmill.process.metrics import read_process
from oatmill.process.signals import StopFlag
from runner.evaluation.clips import VIDEOS, record_clip
from runner.evaluation.evaluation import evaluate_checkpoint
from runner.settings import EvaluatorSettings, read_config
from runner.trust import ENVIRONMENT, check_trust

WAIT_S = 0.5
NICE = 5
"""The evaluator takes only the time that actors and learner leave."""
POLICIES = ("deterministic", "drawn")

log = logging.getLogger("oatmill.evaluator")


class Evaluator:
    """Plays the checkpoints of one run.

    Args:
        run_dir: the run's folder.
        settings: how and how often checkpoints are played.
        stay: for containers: wait for more checkpoints after the end of the run, which may go on later, and follow its
            settings, which may change then.
    """

    def __init__(self, run_dir: Path, settings: EvaluatorSettings, *, stay: bool = False) -> None:
        self.run_dir, self.settings, self.stay = run_dir, settings, stay
        self.checkpoints = run_dir / "checkpoints"
        self._settings_of = self._evaluations = 0
        self._films = True
        self.played = int((last_line(run_dir / EVALUATIONS_FILE) or {}).get("policy_version", -1))

    def run(self, stop: StopFlag) -> None:
        """Play until `stop` is set, or the run has ended and its last checkpoint is played.

        Raises:
            UserError: if a checkpoint does not fit the environment.
            RunError: if the environment fails.
        """
        while not stop.is_set:
            if self.stay:
                self.read_settings()
            # Asked first: a checkpoint that is written before the end is seen after it.
            ended = (self.run_dir / LEARNER_FILE).exists()
            if not self.play_newest(last=ended):
                if ended and not self.stay:
                    return
                time.sleep(WAIT_S)

    def play_newest(self, *, last: bool = False) -> bool:
        """Play the newest checkpoint if it is new enough; returns whether it was played.

        Args:
            last: whether the run has ended, so that any version is new enough.
        """
        held = self.hold_newest()
        if held is None:
            return False
        checkpoint, version = held
        if version <= self.played or (not last and self.played >= 0 and version < self.played + self.settings.every):
            return False
        started = time.monotonic()
        results: dict[str, Any] = {}
        video = self.film(checkpoint)
        for policy in POLICIES:
            evaluation = evaluate_checkpoint(
                checkpoint,
                episodes=self.settings.episodes,
                deterministic=policy == "deterministic",
                seed=self.settings.seed,
                trust=True,  # checked for the whole run
            )
            results[policy] = evaluation.episode_return
        line = {
            "time": time.time(),
            "policy_version": version,
            "learner_step": evaluation.learner_step,
            "env_steps": evaluation.env_steps,
            "checkpoint": checkpoint.name,
            **results,
            "video": video,
            "seconds": time.monotonic() - started,
            "process": read_process(psutil.Process()),
        }
        self.played = version
        self.note_best(checkpoint, results[self.settings.best_by]["mean"])
        append_line(self.run_dir / EVALUATIONS_FILE, line)
        log.info("%s: %s", checkpoint.name, ", ".join(f"{name} {results[name]['mean']:.2f}" for name in POLICIES))
        return True

    def read_settings(self) -> None:
        """Read the run folder's settings again if the learner has written them again."""
        config = self.run_dir / CONFIG_FILE
        written = config.stat().st_mtime_ns
        if written != self._settings_of:
            self.settings, self._settings_of = read_config(config).evaluator, written

    def hold_newest(self) -> tuple[Path, int] | None:
        """The newest checkpoint and its version. The learner keeps it while the link `playing` names it."""
        with contextlib.suppress(OSError, UserError):  # there is none yet, or it was removed meanwhile
            newest = (self.checkpoints / LATEST).resolve(strict=True)
            replace_link(self.checkpoints / PLAYING, newest.name)
            return newest, int(open_manifest(newest)["policy_version"])
        return None

    def film(self, checkpoint: Path) -> str | None:
        """Write a video of the checkpoint if it is time for one; returns its path within the run folder.

        If one cannot be made, such as of an environment without pictures, an event says why, and no more are tried.
        """
        wanted = self.settings.video_every and self._evaluations % self.settings.video_every == 0
        self._evaluations += 1
        if not (wanted and self._films):
            return None
        name = f"{VIDEOS}/{checkpoint.name}.gif"
        try:
            record_clip(checkpoint, self.run_dir / name, self.settings)
        except Exception as error:
            self._films = False
            text = f"the evaluator makes no more videos: {error if isinstance(error, OatmillError) else one_line(error)}"
            log.warning("%s", text)
            append_line(self.run_dir / EVENTS_FILE, {"time": time.time(), "event": "no_more_videos", "text": text})
            return None
        return name

    def note_best(self, checkpoint: Path, mean: float) -> None:
        """Point the link `best` to a checkpoint that played better than any before."""
        record = self.run_dir / "best.json"
        try:
            best = float(json.loads(record.read_text())["eval_return"])
        except (OSError, ValueError, KeyError, TypeError):
            best = -math.inf
        if mean > best or not (self.checkpoints / BEST).exists():
            replace_link(self.checkpoints / BEST, checkpoint.name)
            record.write_text(json.dumps({"checkpoint": checkpoint.name, "eval_return": mean, "by": self.settings.best_by}))


def wait_for(path: Path, stop: StopFlag) -> bool:
    """Wait until a file exists, or `stop` is set; returns whether it exists."""
    if not path.exists():
        log.info("waiting for the learner to write %s", path)
    while not path.exists() and not stop.is_set:
        time.sleep(WAIT_S)
    return path.exists()


def main() -> int:
    """Run the evaluator. Exit code 0: the run has ended, 1: failed, 2: bad input."""
    parser = role_parser("python -m runner.evaluation.evaluator", "The evaluator of an oatmill run.")
    parser.add_argument("--run-dir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--trust", action="store_true", help="run code that the folder's settings name")
    parser.add_argument("--in-container", action="store_true", help="wait for the run to begin, and stay after its end")
    options = parser.parse_args()
    configure_logging(options.log_level)
    return run_to_exit(lambda: _run(options.config, options.run_dir, trust=options.trust, stay=options.in_container))


def _run(config: Path, run_dir: Path, *, trust: bool, stay: bool) -> int:
    stop = StopFlag()
    if stay and not wait_for(config, stop):
        return 0
    settings = read_config(config)
    check_trust(settings, run_dir, trust=trust, places=(*ENVIRONMENT, "agent."))
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    os.nice(NICE)
    try:
        Evaluator(run_dir, settings.evaluator, stay=stay).run(stop)
    except OSError as error:
        raise RunError(f"{run_dir}: {error.strerror}") from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
