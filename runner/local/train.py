"""One run on this machine, from its folder to its summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oatmill.errors import RunError, UserError
from oatmill.files.atomic import write_file
from oatmill.process.signals import Interrupts, Stops, sigterm_interrupts
from replay.addresses import open_to_others
from replay.log.disk import log_folder
from replay.log.identity import check_owner, run_id
from replay.log.tally import NAME as TALLY
from replay.store.snapshot import BUFFER_FOLDER, SnapshotFolder
from runner.folder import RunFolder
from runner.json_lines import last_line
from runner.local.job import Account, Job
from runner.local.listening import LOCAL, listening
from runner.local.supervisor import supervise
from runner.observer import Observer, PlainObserver
from runner.result import Identity, RunResult, compose
from runner.settings import RunSettings, write_config

REWRITTEN = ("config.yaml", "plan.txt", "learner.json", "summary.json")
"""What the newest part of a run says of itself."""

if TYPE_CHECKING:
    from runner.plan_report import PlanReport


@dataclass(frozen=True)
class Options:
    """How a run is started; nothing that changes what is learned.

    Attributes:
        run_dir: the run's folder, new or empty; None makes one below `runs`.
        resume: go on with an ended run's folder from its newest checkpoint; without `run_dir` the newest run's.
        listen: `ipc`, or `tcp://HOST[:PORT]` so that actors of other machines can join.
        insecure: listen beyond this machine although nobody is asked for a key.
        observer: is told of progress; None writes lines to standard error.
        log_level: of all processes' logs.
        keys: the folder that `oatmill keygen` has made; None for a run without keys.
    """

    run_dir: Path | None = None
    resume: bool = False
    listen: str = LOCAL
    insecure: bool = False
    observer: Observer | None = None
    log_level: str = "info"
    keys: Path | None = None


def train_here(settings: RunSettings, *, recipe: str, preset: str | None, options: Options) -> RunResult:
    """Train to the end of the budget.

    Args:
        settings: of the run.
        recipe: its recipe's name.
        preset: its preset's name, if it has one.
        options: how it is started.

    Raises:
        UserError: if it cannot be started as asked; what was made for it is gone.
        RunError: if it has started and failed; its folder stays, with a summary.
    """
    observer = options.observer or PlainObserver()
    try:
        with sigterm_interrupts() as stops, held_folder(options, recipe) as folder, listening(options.listen) as addresses:
            check_ports(settings)
            from runner.plan_report import report_plan  # noqa: PLC0415  (loads torch: after a folder that is taken was refused)

            checked = report_plan(settings)
            stops.check()
            prepare(folder, checked, resume=options.resume)
            identity = Identity(folder.path, recipe, checked.settings.trainer.seed, preset)
            job = Job(
                settings=checked.settings,
                folder=folder,
                addresses=addresses,
                insecure=options.insecure,
                observer=observer,
                identity={"recipe": recipe, "preset": preset, "seed": identity.seed, "started": time.time()},
                resume=options.resume,
                log_level=options.log_level,
                keys=options.keys,
            )
            note = open_to_others(options.listen, keyed=options.keys is not None)
            notes = [*checked.notes, *([] if note is None else [note])]
            observer.started(folder.path, checked.settings.trainer.total_timesteps, notes)
            return run_and_sum_up(job, identity, stops)
    finally:
        observer.ended()


@contextlib.contextmanager
def held_folder(options: Options, recipe: str) -> Iterator[RunFolder]:
    """The run's folder, locked. If the run is refused, a folder that was made for it goes, and an older run's is as it was."""
    folder = RunFolder.existing(options.run_dir) if options.resume else RunFolder.new(options.run_dir, recipe)
    try:
        before = {name: (folder.path / name).read_bytes() for name in REWRITTEN if (folder.path / name).exists()}
    except OSError as error:
        folder.release()
        raise UserError(f"{error.filename} cannot be read: {error.strerror}; move it away, or repair it") from None
    try:
        yield folder
    except UserError:
        for name, content in before.items():
            write_file(folder.path / name, content)
        folder.release(remove=True)
        raise
    except KeyboardInterrupt:
        folder.release(remove=not folder.has_begun)
        raise
    finally:
        folder.release()


def check_ports(settings: RunSettings) -> None:
    """Raise UserError if two processes of this machine were to listen on one port."""
    port = settings.metrics.port
    if port:
        raise UserError(
            f"metrics.port must be 0 for a run on this machine, where replay and learner each take a free port that run.json "
            f"tells, got {port}; a fixed port is for `oatmill replay` and `oatmill learner`"
        )


def prepare(folder: RunFolder, checked: PlanReport, *, resume: bool = False) -> None:
    """Write what the processes read, and take away what an earlier part of the run said of itself.

    Raises:
        UserError: if the folder cannot be written to, or the log is another run's.
    """
    try:
        _prepare(folder, checked, resume=resume)
    except OSError as error:
        raise UserError(
            f"run folder {folder.path} cannot be written to: {error.strerror}; make room, or choose another --run-dir"
        ) from None


def _prepare(folder: RunFolder, checked: PlanReport, *, resume: bool) -> None:
    for path in (*folder.path.glob("endpoints/*.json"), *(folder.path / name for name in REWRITTEN)):
        path.unlink(missing_ok=True)
    log = log_folder(checked.settings.replay.log_dir, folder.path)
    check_owner(run_id(folder.path, log)[0], folder.path, log)
    if checked.settings.replay.acknowledge == "memory":  # the books of a server that is gone, with all that they are about
        # What the replay buffer held is this run's own data if it is resumed, and another run's if the folder was used before.
        for path in (
            *log.glob("[0-9]*.log"),
            *log.glob(TALLY),
            *(() if resume else SnapshotFolder(log / BUFFER_FOLDER).files()),
        ):
            path.unlink()
    write_config(checked.settings, folder.config)
    write_file(folder.path / "plan.txt", checked.to_text())
    folder.point_latest()


def run_and_sum_up(job: Job, identity: Identity, stops: Stops) -> RunResult:
    """Supervise, and write summary.json however the run ends, unless it was refused before it began or its folder is gone."""
    with Interrupts(stops) as interrupts:  # until the summary is written, so that a late signal does not cost it
        account = Account()
        job.folder.event("started", resume=job.resume)
        error: RunError | None = None
        try:
            supervise(job, account, interrupts)
        except RunError as failure:
            error = failure
            if job.folder.gone:
                raise
        return sum_up(job, identity, account, error)


def sum_up(job: Job, identity: Identity, account: Account, error: RunError | None) -> RunResult:
    """Write summary.json.

    Raises:
        RunError: that by which the run has failed.
    """
    outcome = "failed" if error else "stopped" if account.stopped else "done"
    result = compose(
        identity,
        outcome=outcome,
        error=str(error) if error else None,
        last_line=last_line(job.folder.metrics),
        status=account.status,
        actor_restarts=account.restarts,
    )
    job.folder.write_summary(result.to_dict())
    job.folder.event("ended", outcome=outcome)
    if error:
        raise error
    return result
