"""The ingest process: a plain blocking loop around `replay.ingest.core`.

The hub starts this process, and it ends with the hub. It is a process of its own and does not use asyncio,
because asyncio would cost two thirds of the throughput, and a busy Python thread beside it most of the rest.
"""

from __future__ import annotations

import argparse
import gc
import logging
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any

import zmq

from oatmill.errors import UserError, WireError
from oatmill.files.events import Events
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.descriptors import raise_descriptor_limit
from oatmill.process.entry import configure_logging, read_roots, run_to_exit
from oatmill.process.failpoints import failpoint
from oatmill.process.memory import MemoryLimit
from oatmill.process.signals import POLL_MS, StopFlag
from oatmill.process.watchdog import Watchdog
from protocol.channels import ControlClient
from protocol.channels.connection import HEADERS_ONLY_BYTES
from protocol.channels.sockets import ServerSocket
from protocol.data.priorities import priorities_bytes
from protocol.security.keys import ServerKeys, server_keys
from protocol.security.zap import ZapHandler
from protocol.wire.codec import two_frames
from replay.addresses import LOOK_FOR_FILES_EVERY_S, remove_sockets, restore_files
from replay.ingest.actors.credit import MAX_WINDOW_BYTES
from replay.ingest.actors.incoming import MAX_BLOCK_BYTES
from replay.ingest.admissions import Admissions
from replay.ingest.core import IngestCore, IngestSettings, epoch_of_monotonic
from replay.log.disk import FolderDisk, log_folder
from replay.log.identity import check_owner, run_id
from replay.log.journal import Journal
from replay.pipe import Pipe
from replay.quarantine import Quarantine
from replay.store.snapshot import BUFFER_FOLDER
from replay.store.snapshot_saver import BufferSaver

_log = logging.getLogger("oatmill.replay.ingest")

DRAIN = 64
"""How many messages are read from one socket before the others are read. Each actor that sent some of
them gets one acknowledgement."""
REPORT_EVERY_S = 0.25
REPORT_SHARE = 0.01
"""The largest fraction of the time that reports may take. A report about a thousand actors takes 10 ms,
and acknowledgements wait during this time."""
REPORT_WITHIN_S = 2.0
"""The longest time between two reports: one that took long because the machine or the disk is busy says nothing about the
next one, and without reports, metrics and alerts know nothing new."""
JOIN_WITHIN_S = 10.0
LONGEST_TURN_S = 1.0
"""If a turn of ingest takes longer, only this much of it counts as waiting time of actors and learner."""
SAVING_POLL_MS = 1
"""The longest sleep while rows of the replay buffer wait to be copied for a snapshot, in
milliseconds."""


class Ingest:
    """The sockets around the core.

    Args:
        core: the state machine.
        pipe: the pipe to the hub's process.
        addresses: the addresses to bind for `data` and `batches`.
        quarantine: bad messages are written to it.
        watchdog: gets a `beat` in every turn.
        admissions: decides which process may send messages as which actor or rank; gets the hub's table of sessions.
        keys: the server's keys; None accepts everybody.
        probe: the public key of the unknown client in the start-up test.
        batch_rows: the number of trajectories in a batch; the learner may send one priority for each.
        events: the run's events.jsonl.
    """

    def __init__(
        self,
        core: IngestCore,
        pipe: Pipe,
        addresses: dict[str, str],
        *,
        quarantine: Quarantine,
        watchdog: Watchdog,
        admissions: Admissions,
        keys: ServerKeys | None = None,
        probe: bytes = b"",
        batch_rows: int = 0,
        events: Events,
    ) -> None:
        self._events = events
        self._core, self._pipe, self._quarantine, self._watchdog = core, pipe, quarantine, watchdog
        self._admissions = admissions
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._zap = None if keys is None else ZapHandler(context, keys, probe=probe)
        self._data = ServerSocket(context, max_message_bytes=2 * MAX_BLOCK_BYTES, zap=self._zap)
        longest = HEADERS_ONLY_BYTES + priorities_bytes(batch_rows)
        self._batches = ServerSocket(context, max_message_bytes=longest, zap=self._zap)
        self.endpoints = {"data": self._data.bind(addresses["data"]), "batches": self._batches.bind(addresses["batches"])}
        self._batches.allow(2 * longest)
        self._control: ControlClient | None = None
        self._members_serial = -1
        self._answered = 0
        self._report_at = self._files_at = 0.0

    def join(self, control: str, secret: str) -> None:
        """Join the hub's control socket."""
        description = {"secret": secret, **self.endpoints, "known": self._core.known()}
        keys = None if self._zap is None else self._zap.keys.as_client()
        self._control = ControlClient(control, role="ingest", description=description, heartbeat_every_s=0.0, keys=keys)
        welcome = self._control.join(JOIN_WITHIN_S)
        self._core.hub_says(policy_version=welcome.policy_version, stop=False, members=None)

    def run(self, stop: StopFlag) -> int:
        """Serve until told to stop; returns the exit code."""
        assert self._control is not None, "join first"
        poller = zmq.Poller()
        for handle in (self._data.handle, self._batches.handle, self._control.handle, self._pipe.fileno()):
            poller.register(handle, zmq.POLLIN)
        self._watchdog.started()
        clock = AwakeClock(LONGEST_TURN_S)
        while not stop.is_set:
            self._watchdog.beat()
            ready = dict(poller.poll(SAVING_POLL_MS if self._core.replayed.at_work else POLL_MS))
            if self._pipe.fileno() in ready:
                return 0 if self._pipe.receive() == {"stop": True} else 1
            self.turn(clock.now())
            self._core.slept(clock.asleep_s)
        return 0

    def turn(self, now: float) -> None:
        """Read all messages and send the answers.

        The hub's messages come first, because it knows the newest version.
        """
        self._hear_hub(now)
        self._look_after_files(now)
        taken = 0
        for route, user, frames in self._data.receive(DRAIN):
            taken += 1
            try:
                self._core.receive_data(route, *two_frames(frames), now, user)
            except WireError as error:
                self._core.bad_frames(route, error)
        for route, user, frames in self._batches.receive(DRAIN):
            try:
                header, payload = two_frames(frames)
                self._core.receive_batches(route, header, user, payload)
            except WireError as error:
                self._core.bad_frames(route, error, "batches")
        self._quarantine.keep(self._core.rejections.newest)
        self._core.rejections.newest.clear()
        self._count_strangers()
        self._core.turn(now, more=taken == DRAIN)
        for route, message in self._core.outgoing_batches():
            self._batches.send(route, message)
        failpoint("ack.before")
        for route, message in self._core.outgoing_data():
            self._data.send(route, message)
        failpoint("ack.after")

    def _look_after_files(self, now: float) -> None:
        if now >= self._files_at:
            self._files_at = now + LOOK_FOR_FILES_EVERY_S
            restore_files(self._data, self._batches)

    def _count_strangers(self) -> None:
        """Count connections that were rejected or closed. An actor may send its window and two blocks."""
        if self._zap is not None:
            self._core.rejections.add_connections(self._zap.look())
        for reason, connections in (self._data.cut() + self._batches.cut()).items():
            self._core.rejections.add_connections(connections, reason)
        self._data.allow(MAX_WINDOW_BYTES + 2 * self._core.sessions.block_bytes)

    def _hear_hub(self, now: float) -> None:
        assert self._control is not None, "join first"
        control = self._control
        asked = control.report_asked
        if now >= self._report_at or asked > self._answered:
            self._answered, began = asked, time.perf_counter()
            values = self._core.report() | {"auth_restarts": 0 if self._zap is None else self._zap.restarts}
            report = {"report": values, "answering": asked, "serial": self._members_serial}
            control.heartbeat(report, force=True)
            say(self._events, "log_damaged", self._core.marks.complaints)
            self._core.marks.complaints.clear()
            self._events.flush()
            self._report_at = now + pause_after_report(time.perf_counter() - began)
        else:
            control.pump()
        state, news = control.state, control.news
        members = None
        if news.get("serial", -1) != self._members_serial:
            self._members_serial = news["serial"]
            self._admissions.tell(news["sessions"])
            members = read_table(news["members"])
        self._core.hub_says(policy_version=state.policy_version, stop=state.stop, members=members)

    def close(self) -> None:
        """Close all sockets. The context is left to the end of the process: see `protocol.channels.sockets`."""
        self._data.close()
        self._batches.close()
        if self._control is not None:
            self._control.close(goodbye=False)  # the hub has told this process to stop, or is gone
        if self._zap is not None:
            self._zap.close()


def open_journal(config: dict[str, Any], run_dir: Path, events: Events) -> Journal:
    """Open the journal in the run's folder, including everything that an earlier server has written.

    Args:
        config: the content of config.yaml.
        run_dir: the run's folder.
        events: damage is reported there.

    Raises:
        UserError: if the log cannot be read, belongs to another run, or has another unroll length T.
    """
    replay = config["replay"]
    durable, folder = replay["acknowledge"] == "durable", log_folder(replay["log_dir"], run_dir)
    run, replaced = run_id(run_dir, folder)
    check_owner(run, run_dir, folder)
    journal = Journal.open(
        FolderDisk(folder, durable=durable, parents=replay["log_dir"] is not None),
        durable=durable,
        keep_trained=replay["on_learner_restart"] == "replay",
        steps=config["actors"]["unroll_length"],
        kept_bytes=replay["log_bytes"],
        run=run,
    )
    say(events, "state_replaced", [replaced] if replaced else [])
    say(events, "log_damaged", journal.damage)
    return journal


def pause_after_report(took_s: float) -> float:
    """Return the seconds until the next report.

    Args:
        took_s: how long the last one took.
    """
    return min(max(REPORT_EVERY_S, took_s / REPORT_SHARE), REPORT_WITHIN_S)


def say(events: Events, event: str, lines: list[str]) -> None:
    """Write lines about damage to the log output and to events.jsonl."""
    for line in lines:
        _log.warning("%s", line)
        events.add(event, text=line)


def read_table(members: dict[str, list[Any]]) -> dict[int, tuple[int, bool]]:
    """Return the hub's table of members, by actor id."""
    return {int(number): (entry[0], entry[1]) for number, entry in members.items()}


GARBAGE_EVERY = 100_000
"""The number of new objects between two searches for reference cycles. There are very few cycles. The
queue holds thousands of blocks with a dozen arrays each, and with Python's default of 700 all of them
would be searched again and again."""


def serve(pipe: Pipe, config: dict[str, Any], run_dir: Path, stop: StopFlag) -> int:
    """Bind the addresses that the hub sends, join it, and run; returns the exit code."""
    hub = pipe.receive()
    if hub is None or "addresses" not in hub:  # the hub is gone, or it could not start and sent a stop
        return 1
    events = Events(run_dir)
    journal = open_journal(config, run_dir, events)
    settings = IngestSettings.of(config)
    admissions = Admissions()
    core = IngestCore(
        settings,
        epoch=epoch_of_monotonic(),
        journal=journal,
        server=secrets.randbits(52),
        admissions=admissions,
        saver=BufferSaver(log_folder(config["replay"]["log_dir"], run_dir) / BUFFER_FOLDER),
    )
    addresses: dict[str, str] = hub["addresses"]
    watchdog, memory = (
        Watchdog("ingest", config["replay"]["hang_timeout"]),
        MemoryLimit("ingest", config["replay"].get("memory_bytes"), setting="replay.memory_bytes"),
    )
    ingest = Ingest(
        core,
        pipe,
        addresses,
        quarantine=Quarantine(run_dir / "quarantine", "ingest"),
        watchdog=watchdog,
        admissions=admissions,
        keys=None if hub["keys"] is None else server_keys(Path(hub["keys"])),
        probe=hub["probe"].encode(),
        batch_rows=settings.batch_rows,
        events=events,
    )
    try:
        pipe.send({"endpoints": ingest.endpoints})
        ingest.join(hub["control"], hub["secret"])
        gc.freeze()
        gc.set_threshold(GARBAGE_EVERY)
        return ingest.run(stop)
    finally:
        watchdog.close()
        memory.close()
        core.replayed.close()
        journal.close()
        events.close()
        ingest.close()
        remove_sockets(addresses)  # also those of the hub, because it cannot remove them if it was killed


def main() -> int:
    """Run until the hub says stop (0), the hub is gone (1), or SIGTERM arrives (0)."""
    stop = StopFlag()
    raise_descriptor_limit()
    parser = argparse.ArgumentParser(prog="python -m replay.ingest.__main__", description="Started by `python -m replay`.")
    parser.add_argument("--pipe", type=int, required=True, help="the file descriptor of the pipe to the hub")
    parser.add_argument("--config", type=Path, required=True, help="the run's resolved settings")
    parser.add_argument("--run-dir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args()
    configure_logging(options.log_level)
    pipe = Pipe(socket.socket(fileno=options.pipe))
    try:
        return serve(pipe, read_roots(options.config), options.run_dir, stop)
    except UserError as error:
        pipe.send({"error": str(error)})
        return error.exit_code
    finally:
        pipe.close()


if __name__ == "__main__":
    sys.exit(run_to_exit(main))
