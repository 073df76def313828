"""The ingest process: a plain blocking loop around `replay.core`, and nothing else.

It is started by the hub and ends with it. asyncio would cost two thirds of the rate here, and a busy Python thread beside it
most of the rest.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from pathlib import Path
from typing import Any

import zmq

from protocol.channels import ControlClient
from protocol.codec import two_frames
from protocol.errors import UserError, WireError
from protocol.sockets import ServerSocket
from replay.core import IngestCore, IngestSettings, epoch_of_monotonic
from replay.link import Link
from replay.listen import remove_sockets
from replay.process import POLL_MS, Ending, configure_logging, load_config, run_to_exit
from replay.sessions import MAX_BLOCK_BYTES

DRAIN = 64
"""Messages taken from one socket before the others are looked at; every actor among them gets one acknowledgement."""
REPORT_EVERY_S = 0.25
JOIN_WITHIN_S = 10.0
MAX_HEADER_ONLY_BYTES = 64 * 1024


class Ingest:
    """The process's sockets around the core.

    Args:
        core: the state.
        link: the pipe to the hub's process.
        addresses: where to bind `data` and `batches`.
    """

    def __init__(self, core: IngestCore, link: Link, addresses: dict[str, str]) -> None:
        self._core, self._link = core, link
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._data = ServerSocket(self._context, max_message_bytes=2 * MAX_BLOCK_BYTES)
        self._batches = ServerSocket(self._context, max_message_bytes=MAX_HEADER_ONLY_BYTES)
        self.endpoints = {"data": self._data.bind(addresses["data"]), "batches": self._batches.bind(addresses["batches"])}
        self._control: ControlClient | None = None
        self._members_serial = -1
        self._answered = 0
        self._reported = -float("inf")

    def join(self, control: str, secret: str) -> None:
        """Join the hub's control socket."""
        description = {"secret": secret, **self.endpoints}
        self._control = ControlClient(control, role="ingest", description=description, heartbeat_every_s=0.0)
        self._control.join(JOIN_WITHIN_S)

    def run(self, ending: Ending) -> int:
        """Serve until told to end; the exit code."""
        assert self._control is not None, "join first"
        poller = zmq.Poller()
        for handle in (self._data.handle, self._batches.handle, self._control.handle, self._link.fileno()):
            poller.register(handle, zmq.POLLIN)
        while not ending.asked:
            ready = dict(poller.poll(POLL_MS))
            if self._link.fileno() in ready:
                return 0 if self._link.hear() == {"stop": True} else 1
            self.turn(time.monotonic())
        return 0

    def turn(self, now: float) -> None:
        """Take in what has come and send what follows from it. The hub's word comes first: it knows the newest version."""
        self._hear_hub(now)
        for route, frames in self._data.receive(DRAIN):
            try:
                self._core.receive_data(route, *two_frames(frames), now)
            except WireError as error:
                self._core.bad_frames(error)
        for route, frames in self._batches.receive(DRAIN):
            try:
                self._core.receive_batches(route, two_frames(frames)[0])
            except WireError as error:
                self._core.bad_frames(error)
        self._core.turn(now)
        for route, message in self._core.outgoing_batches():
            self._batches.send(route, message)
        for route, message in self._core.outgoing_data():
            self._data.send(route, message)

    def _hear_hub(self, now: float) -> None:
        assert self._control is not None, "join first"
        control = self._control
        asked = control.report_asked
        if now - self._reported >= REPORT_EVERY_S or asked > self._answered:
            self._reported, self._answered = now, asked
            report = {"report": self._core.report(), "answering": asked, "serial": self._members_serial}
            control.heartbeat(report, force=True)
        else:
            control.pump()
        state, news = control.state, control.news
        members = None
        if news.get("serial", -1) != self._members_serial:
            self._members_serial = news["serial"]
            members = {int(number): (entry[0], entry[1]) for number, entry in news["members"].items()}
        self._core.hub_says(policy_version=state.policy_version, stop=state.stop, members=members)

    def close(self) -> None:
        """Close all sockets."""
        self._data.close()
        self._batches.close()
        if self._control is not None:
            self._control.close(goodbye=False)  # the hub knows, or is gone
        self._context.term()


def serve(link: Link, config: dict[str, Any], ending: Ending) -> int:
    """Bind where the hub says, join it and run; the exit code."""
    core = IngestCore(IngestSettings.of(config), epoch=epoch_of_monotonic())
    hub = link.hear()
    if hub is None or "addresses" not in hub:  # the hub is gone, or could not begin and says stop
        return 1
    addresses: dict[str, str] = hub["addresses"]
    ingest = Ingest(core, link, addresses)
    try:
        link.say({"endpoints": ingest.endpoints})
        ingest.join(hub["control"], hub["secret"])
        return ingest.run(ending)
    finally:
        ingest.close()
        remove_sockets(addresses)  # the hub's too: it may have been killed and cannot


def main() -> int:
    """Run until the hub says stop (0), is gone (1) or SIGTERM comes (0)."""
    ending = Ending()
    parser = argparse.ArgumentParser(prog="python -m replay.ingest", description="Started by `python -m replay`.")
    parser.add_argument("--link", type=int, required=True, help="the file descriptor of the pipe to the hub")
    parser.add_argument("--config", type=Path, required=True, help="the run's resolved settings")
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args()
    configure_logging(options.log_level)
    link = Link(socket.socket(fileno=options.link))
    try:
        return serve(link, load_config(options.config), ending)
    except UserError as error:
        link.say({"error": str(error)})
        return error.exit_code
    finally:
        link.close()


if __name__ == "__main__":
    sys.exit(run_to_exit(main))
