"""Trains on this machine: prepares the run folder, supervises the run, and writes its summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oatmill.errors import RunError, UserError
from oatmill.files.atomic import write_file
from oatmill.files.json_lines import last_line
from oatmill.files.run_files import CONFIG_FILE, LEARNER_FILE, SUMMARY_FILE
from oatmill.git import git_commit
from oatmill.process.signals import Interrupts, Stops, sigterm_interrupts
from protocol.security.keys import server_keys
from replay.addresses import check_addresses, open_to_others
from replay.log.disk import log_folder
from replay.log.identity import check_owner, run_id
from replay.log.tally import NAME as TALLY
from replay.store.snapshot import BUFFER_FOLDER, SnapshotFolder
from runner.continuing import check_newest_checkpoint
from runner.folder import RunFolder
from runner.local.job import Account, Job
from runner.local.launcher import LocalLauncher
from runner.local.listening import LOCAL, listening
from runner.local.supervisor import supervise
from runner.observer import Observer, PlainObserver
from runner.result import Identity, RunResult, compose
from runner.settings import RunSettings, write_config

REWRITTEN = (CONFIG_FILE, "plan.txt", LEARNER_FILE, SUMMARY_FILE)
"""The files that describe the newest part of a run."""

if TYPE_CHECKING:
    from runner.plan_report import PlanReport


@dataclass(frozen=True)
class Options:
    """How a run is started. These options do not change what is learned.

    Attributes:
        run_dir: the run's folder, new or empty; None makes one below `runs`.
        resume: resume an ended run from its newest checkpoint; without `run_dir`, the newest run.
        listen: `ipc`, or `tcp://HOST[:PORT]` so that actors on other machines can join.
        insecure: listen beyond this machine without keys.
        observer: receives progress; None writes lines to standard error.
        log_level: the log level of all processes.
        keys: the folder that `oatmill keygen` has created; None for a run without keys.
        launcher: makes the launcher that starts the processes, with the arguments of LocalLauncher.
        in_place: take a run folder that is not empty, because an engine has put its settings there.
    """

    run_dir: Path | None = None
    resume: bool = False
    listen: str = LOCAL
    insecure: bool = False
    observer: Observer | None = None
    log_level: str = "info"
    keys: Path | None = None
    launcher: Callable[..., LocalLauncher] = LocalLauncher
    in_place: bool = False


def train_here(settings: RunSettings, *, recipe: str, preset: str | None, options: Options) -> RunResult:
    """Train until the budget is spent or the run is stopped.

    Args:
        settings: the run's settings.
        recipe: the recipe's name.
        preset: the preset's name, if there is one.
        options: the options of the command.

    Raises:
        UserError: if the run cannot be started; files that were created for it are removed.
        RunError: if the run fails after its start; its folder is kept, with a summary.
    """
    observer = options.observer or PlainObserver()
    try:
        with sigterm_interrupts() as stops, held_folder(options, recipe) as folder, listening(options.listen) as addresses:
            check_ports(settings)
            check_addresses(addresses.listen, insecure=options.insecure or server_keys(options.keys) is not None)
            if options.resume:
                check_newest_checkpoint(folder.path, settings.trainer)
            from runner.plan_report import report_plan  # noqa: PLC0415  (imports torch, which is slow)

            checked = report_plan(settings, resumed=options.resume)
            stops.check()
            prepare(folder, checked, resume=options.resume)
            commit = git_commit(Path.cwd())
            identity = Identity(folder.path, recipe, checked.settings.trainer.seed, preset, commit)
            job = Job(
                settings=checked.settings,
                folder=folder,
                addresses=addresses,
                insecure=options.insecure,
                observer=observer,
                identity={
                    "recipe": recipe,
                    "preset": preset,
                    "seed": identity.seed,
                    "started": time.time(),
                    "git_commit": commit,
                },
                resume=options.resume,
                log_level=options.log_level,
                keys=options.keys,
            )
            note = open_to_others(options.listen, keyed=options.keys is not None)
            notes = [*checked.notes, *([] if note is None else [note])]
            observer.started(folder.path, checked.settings.trainer.total_timesteps, notes)
            return run_and_sum_up(job, identity, stops, options.launcher)
    finally:
        observer.ended()


@contextlib.contextmanager
def held_folder(options: Options, recipe: str) -> Iterator[RunFolder]:
    """The locked run folder. After a UserError, a new folder is removed and an older one is restored."""
    used = options.resume or options.in_place
    folder = RunFolder.existing(options.run_dir) if used else RunFolder.new(options.run_dir, recipe)
    try:
        before = {name: (folder.path / name).read_bytes() for name in REWRITTEN if (folder.path / name).exists()}
    except OSError as error:
        folder.release()
        raise UserError(f"{error.filename} cannot be read: {error.strerror}; remove or repair it") from None
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
    """Raise a UserError if two processes of this machine would listen on the same port."""
    port = settings.metrics.port
    if port:
        raise UserError(
            f"metrics.port must be 0 for a run on this machine, where replay and learner each use a free port (see run.json), "
            f"got {port}; use a fixed port with `oatmill replay` and `oatmill learner` only"
        )


def prepare(folder: RunFolder, checked: PlanReport, *, resume: bool = False) -> None:
    """Write the files that the processes read, and remove outdated files of an earlier start.

    Raises:
        UserError: if the folder cannot be written to, or the replay log belongs to another run.
    """
    try:
        _prepare(folder, checked, resume=resume)
    except OSError as error:
        raise UserError(
            f"run folder {folder.path} cannot be written to: {error.strerror}; free disk space, or choose another --run-dir"
        ) from None


def _prepare(folder: RunFolder, checked: PlanReport, *, resume: bool) -> None:
    for path in (*folder.path.glob("endpoints/*.json"), *(folder.path / name for name in REWRITTEN)):
        path.unlink(missing_ok=True)
    log = log_folder(checked.settings.replay.log_dir, folder.path)
    check_owner(run_id(folder.path, log)[0], folder.path, log)
    if checked.settings.replay.acknowledge == "memory":  # remove the ledger and data of an earlier server
        # A resumed run keeps its replay buffer; otherwise the data belong to another run.
        for path in (
            *log.glob("[0-9]*.log"),
            *log.glob(TALLY),
            *(() if resume else SnapshotFolder(log / BUFFER_FOLDER).files()),
        ):
            path.unlink()
    write_config(checked.settings, folder.config)
    write_file(folder.path / "plan.txt", checked.to_text())
    folder.point_latest()


def run_and_sum_up(job: Job, identity: Identity, stops: Stops, launcher: Callable[..., LocalLauncher]) -> RunResult:
    """Supervise the run and write summary.json, except after a UserError or if the folder is gone."""
    with Interrupts(stops) as interrupts:  # kept until the summary is written, so that a late signal cannot prevent it
        account = Account()
        job.folder.event("started", resume=job.resume)
        error: RunError | None = None
        try:
            supervise(job, account, interrupts, launcher)
        except RunError as failure:
            error = failure
            if job.folder.gone:
                raise
        return sum_up(job, identity, account, error)


def sum_up(job: Job, identity: Identity, account: Account, error: RunError | None) -> RunResult:
    """Write summary.json.

    Raises:
        RunError: the error of the run, if it failed.
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
