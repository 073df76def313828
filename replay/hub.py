"""The hub process: control, weights and HTTP around `replay.hub_core`. Ingest is its child, and neither outlives the other."""

from __future__ import annotations

import logging
import os
import secrets
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import zmq

from protocol.codec import Buffer, two_frames
from protocol.endpoints import write_endpoint
from protocol.errors import WireError
from protocol.http import HttpServer, Pages
from protocol.joining import joining_config
from protocol.sockets import ServerSocket
from protocol.timing import LOST_AFTER_S
from replay.child import IngestProcess
from replay.hub_core import HubCore
from replay.link import Link
from replay.listen import bind_addresses, remove_sockets
from replay.members import Members
from replay.metrics import Snapshot, registry_of
from replay.process import POLL_MS, Ending, load_config

_log = logging.getLogger("oatmill.replay.hub")

DRAIN = 256
"""Messages taken from one socket before the other is looked at."""
PROGRESS_WITHIN_S = 5.0
MAX_CONTROL_BYTES = 8 * 2**20
MAX_WEIGHTS_BYTES = 8 * 2**30


class Hub:
    """The process's sockets around the core.

    Args:
        config: the roots of config.yaml.
        addresses: where to bind `control` and `weights`.
        secret: what only this process's ingest knows.
    """

    def __init__(self, config: dict[str, Any], addresses: dict[str, str], secret: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._control = ServerSocket(self._context, max_message_bytes=MAX_CONTROL_BYTES)
        self._weights = ServerSocket(self._context, max_message_bytes=MAX_WEIGHTS_BYTES)
        self.control = self._control.bind(addresses["control"])
        weights = self._weights.bind(addresses["weights"])
        members = Members(joining_config(config), secret)
        self.core = HubCore(members, desired_actors=config["actors"].get("count", 0), weights_endpoint=weights)
        self._turned = time.monotonic()
        self._snapshot = Snapshot({}, {})
        self._snapshot_of = -1.0

    def healthy(self) -> bool:
        """Whether both processes make progress. Called by the HTTP thread."""
        now = time.monotonic()
        return now - self._turned < PROGRESS_WITHIN_S and self.core.healthy(now, PROGRESS_WITHIN_S)

    def snapshot(self) -> Snapshot:
        """The newest numbers. Called by the HTTP thread."""
        return self._snapshot

    def run(self, link: Link, ending: Ending, on_ready: Callable[[], None]) -> int:
        """Serve until told to end; the exit code."""
        poller = zmq.Poller()
        for handle in (self._control.handle, self._weights.handle, link.fileno()):
            poller.register(handle, zmq.POLLIN)
        announced = False
        while not ending.asked:
            ready = dict(poller.poll(POLL_MS))
            if link.fileno() in ready and not ending.asked:
                _log.error("ingest has ended; the hub ends too")
                return 1
            self.turn(time.monotonic())
            if self.core.ingest_lost(self._turned):
                _log.error("ingest has not reported for %.0f s; the hub ends", LOST_AFTER_S)
                return 1
            if self.core.ready and not announced:
                on_ready()
                announced = True
        return 0

    def turn(self, now: float) -> None:
        """Take in what has come and send what follows from it."""
        wall = time.time()

        def weights(route: bytes, header: Buffer, payload: Buffer) -> None:
            self.core.receive_weights(route, header, payload, now=now, wall=wall)

        def control(route: bytes, header: Buffer, payload: Buffer) -> None:
            self.core.receive_control(route, header, payload, now)

        taken = self._drain(self._control, control)
        self._drain(self._weights, weights)
        if taken < DRAIN:  # else a heartbeat that is missed may wait among the rest
            self.core.turn(now)
        for route, message in self.core.outgoing_control():
            self._control.send(route, message)
        for route, message in self.core.weights.outgoing():
            self._weights.send(route, message)
        self._turned = now
        self._take_snapshot()

    def _drain(self, source: ServerSocket, take: Callable[[bytes, Buffer, Buffer], None]) -> int:
        taken = 0
        for route, frames in source.receive(DRAIN):
            taken += 1
            try:
                take(route, *two_frames(frames))
            except WireError as error:
                self.core.bad_frames(error)
        return taken

    def _take_snapshot(self) -> None:
        """Replace what the HTTP thread reads, once a report."""
        core = self.core
        if core.reported_at == self._snapshot_of:
            return
        self._snapshot_of = core.reported_at
        self._snapshot = Snapshot(
            core.report,
            core.rejected_by(),
            core.members.live,
            core.desired_actors,
            core.members.expired,
            core.members.restarts,
            core.weights.sent_bytes,
            core.weights.publish_seconds.to_dict(),
            core.weights.apply_lag.to_dict(),
        )

    def close(self) -> None:
        """Close all sockets."""
        self._control.close()
        self._weights.close()
        self._context.term()


def serve(options: Namespace, ingest: IngestProcess, ending: Ending) -> int:
    """Run the replay role until SIGTERM (0), or until one of its processes dies (1).

    Args:
        options: the command line.
        ingest: the other process, just started; it is ended here.
        ending: tells of SIGTERM.

    Raises:
        UserError: if an address is taken or cannot be listened on, or config.yaml cannot be read.
    """
    secret = secrets.token_hex(16)
    hub: Hub | None = None
    http: HttpServer | None = None
    try:
        config = load_config(options.config)
        addresses = bind_addresses(options.listen, insecure=options.insecure)
        hub = Hub(config, addresses, secret)
        endpoints = ingest.endpoints(addresses, hub.control, secret)
        http = open_http(config, hub)
        announce = announcement(options, hub, endpoints, http.url)
        return hub.run(ingest.link, ending, announce)
    finally:
        ingest.end()
        if http is not None:
            http.close()
        if hub is not None:
            hub.close()
            remove_sockets(addresses)


def open_http(config: dict[str, Any], hub: Hub) -> HttpServer:
    """The pages of the role."""
    pages = Pages(registry_of(hub.snapshot, hub.healthy), hub.healthy, lambda: hub.core.ready, {"/actors": hub.core.actors})
    return HttpServer(config["metrics"]["host"], config["metrics"]["port"], pages)


def announcement(options: Namespace, hub: Hub, endpoints: dict[str, str], metrics: str) -> Callable[[], None]:
    """What is done once actors and learner can come."""

    def announce() -> None:
        content = {"pid": os.getpid(), "metrics": metrics, "control": hub.control, **endpoints}
        write_endpoint(options.run_dir, "replay", content)
        if options.port_file is not None:
            working = options.port_file.with_suffix(".tmp")
            working.write_text(f"{hub.control}\n")
            working.rename(options.port_file)
        _log.info("ready: control %s, metrics %s", hub.control, metrics)

    return announce
