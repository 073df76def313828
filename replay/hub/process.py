"""The hub process: the sockets for control and weights, and HTTP, around `replay.hub.core`.

Ingest is its child. If one of the two ends, so does the other.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from oatmill.errors import WireError
from oatmill.files.atomic import write_file
from oatmill.files.endpoints import write_endpoint
from oatmill.files.events import Events
from oatmill.files.state_file import DamagedStateError, decode_state, encode_state
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.descriptors import descriptor_limit, too_few
from oatmill.process.entry import read_roots, settings_of
from oatmill.process.http import HttpServer, Pages
from oatmill.process.memory import MemoryLimit
from oatmill.process.signals import POLL_MS, StopFlag
from oatmill.process.watchdog import Watchdog
from oatmill.settings.flat import acting_config, joining_config
from protocol.channels.control_client import CONTROL_BYTES
from protocol.channels.sockets import SOCKETS_A_PROCESS, ServerSocket
from protocol.security.keys import ServerKeys, new_keys, server_keys
from protocol.security.users import User
from protocol.security.zap import ZapHandler
from protocol.wire.codec import Buffer, two_frames
from protocol.wire.deadlines import LOST_AFTER_S
from replay.addresses import LOOK_FOR_FILES_EVERY_S, bind_addresses, open_to_others, remove_sockets, restore_files
from replay.claim_limits import MAX_VERSION
from replay.hub.core import HubCore
from replay.hub.ingest_process import IngestProcess
from replay.hub.member import Member
from replay.hub.members import Members
from replay.hub.metrics import HubNumbers, registry_of
from replay.hub.self_test import check_keys
from replay.pipe import Pipe
from replay.quarantine import Quarantine

_log = logging.getLogger("oatmill.replay.hub")

VERSIONS = "policy_version"
"""The file of the highest policy version."""
VERSION_DIGITS = 16
DRAIN = 256
"""The number of messages that are read from one socket before the other one is read."""
PROGRESS_WITHIN_S = 5.0
LONGEST_TURN_S = 1.0
"""A longer turn of the hub counts as this much of the members' silence, so that an actor is missed
after a few seconds."""
FIRST_CONTROL_BYTES = 2**20
"""The largest message before a process has joined: HELLO. Ingest's HELLO has every actor that its
log knows."""
MAX_WEIGHTS_BYTES = 8 * 2**30
VERSIONS_UNDER_WAY = 2


class Hub:
    """The sockets around the core.

    Args:
        config: the content of config.yaml.
        addresses: the addresses to bind for `control` and `weights`.
        secret: a secret that only this process's ingest knows.
        versions: the file with the highest policy version, so that no version is reused after this
            process has died.
        saved_version: the version in that file.
        quarantine: bad messages are written to it.
        keys: the server's keys; None accepts everybody.
        probe: the public key of the unknown client in the start-up test.
    """

    def __init__(
        self,
        config: dict[str, Any],
        addresses: dict[str, str],
        secret: str,
        *,
        versions: Path,
        saved_version: int = -1,
        quarantine: Quarantine,
        keys: ServerKeys | None = None,
        probe: bytes = b"",
    ) -> None:
        self._quarantine, self._files_at = quarantine, 0.0
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._zap = None if keys is None else ZapHandler(context, keys, probe=probe)
        self._control = ServerSocket(context, max_message_bytes=CONTROL_BYTES, zap=self._zap, first_bytes=FIRST_CONTROL_BYTES)
        self._weights = ServerSocket(context, max_message_bytes=MAX_WEIGHTS_BYTES, zap=self._zap)
        self.control = self._control.bind(addresses["control"])
        self._control.allow(2 * CONTROL_BYTES)
        weights = self._weights.bind(addresses["weights"])
        members = Members(joining_config(config), secret, self._connected)
        members.machines.settings = acting_config(config)
        self._versions = versions
        self._saved_version = saved_version
        self.core = HubCore(
            members,
            desired_actors=config["actors"].get("count", 0),
            weights_endpoint=weights,
            highest_version=self._saved_version,
        )
        self._watchdog = Watchdog("hub", config["replay"]["hang_timeout"])
        self._clock = AwakeClock(LONGEST_TURN_S)
        self._turned, self._awake = time.monotonic(), self._clock.now()
        self._announce_failed = False
        self._memory = MemoryLimit("hub", config["replay"].get("memory_bytes"), setting="replay.memory_bytes")
        self._numbers = HubNumbers({}, {})
        self._numbers_of: tuple[object, ...] = ()

    def _connected(self, member: Member) -> bool:
        """Whether a member's connection still exists. Only sending a message shows this."""
        return self._control.send(member.route, self.core.state(member))

    def healthy(self) -> bool:
        """Whether both processes make progress. Called by the HTTP thread."""
        turns = time.monotonic() - self._turned < PROGRESS_WITHIN_S
        return turns and self.core.healthy(self._awake, PROGRESS_WITHIN_S)

    def numbers(self) -> HubNumbers:
        """Return the newest numbers. Called by the HTTP thread."""
        return self._numbers

    def run(self, pipe: Pipe, stop: StopFlag, on_ready: Callable[[], None]) -> int:
        """Serve until told to stop; returns the exit code."""
        poller = zmq.Poller()
        for handle in (self._control.handle, self._weights.handle, pipe.fileno()):
            poller.register(handle, zmq.POLLIN)
        announced = False
        self._watchdog.started()
        while not stop.is_set:
            self._watchdog.beat()
            ready = dict(poller.poll(POLL_MS))
            if pipe.fileno() in ready and not stop.is_set:
                _log.error("ingest has ended; the hub ends too")
                return 1
            self.turn(self._clock.now())
            if self.core.ingest_lost(self._awake):
                _log.error("ingest has not reported for %.0f s; the hub ends", LOST_AFTER_S)
                return 1
            if self.core.ready and not announced:
                announced = self._announced(on_ready)
        return 0

    def _announced(self, on_ready: Callable[[], None]) -> bool:
        """Announce the server's addresses; False if the disk is full, to be tried again."""
        try:
            on_ready()
        except OSError as error:
            if not self._announce_failed:
                _log.warning("the addresses of this server cannot be written: %s; trying again", error.strerror)
            self._announce_failed = True
            return False
        return True

    def turn(self, now: float) -> None:
        """Read all messages and send the answers."""
        wall = time.time()

        def weights(route: bytes, user: User, header: Buffer, payload: Buffer) -> None:
            self.core.receive_weights(route, header, payload, now=now, wall=wall, user=user)

        def control(route: bytes, user: User, header: Buffer, payload: Buffer) -> None:
            self.core.receive_control(route, header, payload, now, user)

        if now >= self._files_at:
            self._files_at = now + LOOK_FOR_FILES_EVERY_S
            restore_files(self._control, self._weights)
        taken = self._drain(self._control, control, "control")
        self._drain(self._weights, weights, "weights")
        self._quarantine.keep(self.core.rejections.newest)
        self.core.rejections.newest.clear()
        self._count_strangers()
        if taken < DRAIN:  # otherwise a missing heartbeat may be among the waiting messages
            self.core.turn(now)
        self._save_version()
        for route, message in self.core.outgoing_control():
            self._control.send(route, message)
        for route, message in self.core.weights.outgoing():
            self._weights.send(route, message)
        self._turned, self._awake = time.monotonic(), now
        self._update_numbers()

    def _count_strangers(self) -> None:
        """Count connections that were rejected or closed.

        Allow messages as large as the announced weights.
        """
        if self._zap is not None:
            self.core.rejections.add_connections(self._zap.look())
        for reason, connections in (self._control.cut() + self._weights.cut()).items():
            self.core.rejections.add_connections(connections, reason)
        self._weights.allow(VERSIONS_UNDER_WAY * min(self.core.weights.offered_bytes, MAX_WEIGHTS_BYTES))

    def _save_version(self) -> None:
        """Save the highest version before anybody learns of it.

        A full disk is ignored: the learner knows the version, too.
        """
        version = self.core.known_version
        if version > self._saved_version:
            self._saved_version = version
            with contextlib.suppress(OSError):
                write_file(self._versions, encode_state(VERSIONS, version))

    def _drain(self, source: ServerSocket, take: Callable[[bytes, User, Buffer, Buffer], None], name: str) -> int:
        taken = 0
        for route, user, frames in source.receive(DRAIN):
            taken += 1
            try:
                take(route, user, *two_frames(frames))
            except WireError as error:
                self.core.bad_frames(error, name)
        return taken

    def _update_numbers(self) -> None:
        """Replace the numbers that the HTTP thread reads, once per report, and when who is there or the aim has changed."""
        core = self.core
        newest = (core.reported_at, core.members.serial, core.desired_actors, core.stop)
        if newest == self._numbers_of:
            return
        self._numbers_of = newest
        self._numbers = HubNumbers(
            core.report,
            core.rejected_by(),
            core.members.live,
            core.desired_actors,
            core.members.expired,
            core.members.restarts,
            core.weights.sent_bytes,
            core.weights.publish_seconds.to_dict(),
            core.weights.apply_lag.to_dict(),
            core.report.get("auth_restarts", 0) + (0 if self._zap is None else self._zap.restarts),
            core.stop,
            core.resources.quantities(core.members.actors),
        )

    def close(self) -> None:
        """Close all sockets. The context is left to the end of the process: see `protocol.channels.sockets`."""
        self._watchdog.close()
        self._memory.close()
        self._control.close()
        self._weights.close()
        if self._zap is not None:
            self._zap.close()


def serve(options: Namespace, ingest: IngestProcess, stop: StopFlag) -> int:
    """Run the replay server until SIGTERM (0), or until one of its processes dies (1).

    Args:
        options: the command line.
        ingest: the other process, which was just started; it is ended here.
        stop: shows whether SIGTERM has arrived.

    Raises:
        UserError: if an address is taken or cannot be used, or config.yaml cannot be read.
    """
    secret = secrets.token_hex(16)
    hub: Hub | None = None
    http: HttpServer | None = None
    try:
        config = read_config(options)
        keys = server_keys(options.keys)
        addresses = bind_addresses(options.listen, insecure=options.insecure or keys is not None)
        stranger = None if keys is None else new_keys(keys.public)
        probe = b"" if stranger is None else stranger.public
        version, replaced = read_version(options.run_dir)
        if replaced:
            _log.warning("%s", replaced)
            with contextlib.closing(Events(options.run_dir)) as events:
                events.add("state_replaced", text=replaced)
        hub = Hub(
            config,
            addresses,
            secret,
            versions=options.run_dir / VERSIONS,
            saved_version=version,
            quarantine=Quarantine(options.run_dir / "quarantine", "hub"),
            keys=keys,
            probe=probe,
        )
        endpoints = ingest.endpoints(addresses, hub.control, secret, keys=options.keys, probe=probe)
        if keys is not None and stranger is not None:
            sockets = {**endpoints, "control": hub.control, **hub.core.endpoints}
            check_keys(sockets, own=keys.as_client(), stranger=stranger)
        http = open_http(config, hub, ingest.pid)
        announce = announcement(options, hub, http.url, notes_on(config, options))
        return hub.run(ingest.pipe, stop, announce)
    finally:
        ingest.end()
        if http is not None:
            http.close()
        if hub is not None:
            hub.close()
            remove_sockets(addresses)


def read_config(options: Namespace) -> dict[str, Any]:
    """Return the content of config.yaml.

    It is validated unless the command that started this server has done so: validation takes half
    of the start-up time.

    Raises:
        UserError: if the file is not a config.yaml, or a setting in it is wrong.
    """
    roots = read_roots(options.config)
    if not options.validated:
        from replay.settings import ReplayRoots  # noqa: PLC0415  (loads pydantic)

        settings_of(ReplayRoots, roots, options.config)
    return roots


def read_version(run_dir: Path) -> tuple[int, str]:
    """Return the highest policy version that earlier hubs have seen (-1 for none), and a line about damage.

    A damaged file is replaced by the version in the checkpoints. Ingest reports the version in the
    log.
    """
    path = run_dir / VERSIONS
    try:
        return version_in(path.read_bytes()), ""
    except FileNotFoundError:
        return -1, ""
    except (OSError, DamagedStateError) as error:
        found = max(map(version_of, run_dir.glob("checkpoints/step-*/manifest.json")), default=-1)
        return (
            found,
            f"{path} is damaged ({error}); the policy version continues from the checkpoints' {found} or from the log's",
        )


def version_in(data: bytes) -> int:
    """Return the version in the file's content. In older runs, the file is just a number.

    Raises:
        DamagedStateError: if it is not a policy version.
    """
    version = int(data) if data.isdigit() and len(data) <= VERSION_DIGITS else decode_state(VERSIONS, data)
    if type(version) is not int or not -1 <= version <= MAX_VERSION:
        raise DamagedStateError(f"expected a policy version of at most {MAX_VERSION}, got {str(version)[:40]}")
    return version


def version_of(manifest: Path) -> int:
    """Return the policy version of a checkpoint; -1 if its manifest cannot be read."""
    try:
        return version_in(str(json.loads(manifest.read_bytes())["policy_version"]).encode())
    except (OSError, ValueError, LookupError, TypeError, DamagedStateError):
        return -1


def open_http(config: dict[str, Any], hub: Hub, ingest: int) -> HttpServer:
    """Serve the pages of the replay server."""
    registry = registry_of(hub.numbers, hub.healthy, ingest=ingest)
    pages = Pages(registry, hub.healthy, lambda: hub.core.serving, {"/actors": hub.core.actors})
    return HttpServer(config["metrics"]["host"], config["metrics"]["port"], pages)


def notes_on(config: dict[str, Any], options: Namespace) -> list[str]:
    """Return warnings for the user who started this server, one line each."""
    notes = (
        too_few(descriptor_limit(), SOCKETS_A_PROCESS, config["actors"].get("count", 0)),
        open_to_others(options.listen, keyed=options.keys is not None),
    )
    return [note for note in notes if note is not None]


def announcement(options: Namespace, hub: Hub, metrics: str, notes: list[str]) -> Callable[[], None]:
    """Return a function that announces that actors and learner can connect."""

    def announce() -> None:
        content = {"pid": os.getpid(), "metrics": metrics, "control": hub.control, **hub.core.endpoints}
        write_endpoint(options.run_dir, "replay", content)
        if options.port_file is not None:
            write_file(options.port_file, f"{hub.control}\n")
        for note in notes:
            _log.warning(note)
        _log.info("ready: control %s, metrics %s", hub.control, metrics)

    return announce
