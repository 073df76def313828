"""A stream of 1 MB trajectories over tcp on loopback, with acknowledgements, compared with raw TCP in the same run.

A child process sends as an actor does: `TrajectorySenderPeer` on a DEALER socket, and every block is packed.
This process receives as ingest does, with ingest's sessions, credit, checks and acknowledgements. `copied`
also copies every trajectory into a batch. `raw tcp` is one socket: `sendall` of 1 MB, and `recv_into` the
same memory again and again, without reading the data. Rates are per elapsed second from the first message
on. The receiver's CPU time per GB is shown, too, because on a busy machine the sender may be the bottleneck.
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import zmq

from benchmarks.harness import Arm, Effort, Figure, Rounds
from benchmarks.processes import arguments_of, start_python
from benchmarks.replay import STEPS, Case, synthetic_block
from protocol.channels.connection import HEADERS_ONLY_BYTES, Connection
from protocol.channels.sockets import ServerSocket
from protocol.data.run_schema import RunSchema
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.data.trajectory import BlockSize
from protocol.peers.trajectory import TrajectorySenderPeer
from protocol.wire.codec import two_frames
from replay.hub.ingest_process import MALLOC
from replay.ingest.actors.credit import CreditLine
from replay.ingest.actors.incoming import ActorMessages
from replay.ingest.actors.session import Arrival
from replay.ingest.validation import Validator
from replay.log.journal import Journal
from replay.store.assembly import Assembler
from replay.store.queue import Slice

WARM_UP = False
GOALS = {"acknowledged": 0.60, "copied": 0.50}
CASE = Case(Spaces(ObservationSpace("vector", (4000,), "float32"), ActionSpace((2,))), 1, 16)
"""65 observations of 4,000 float32 are 1.04 MB."""
SCHEMA = RunSchema(CASE.spaces, 0, ())
MEGABYTE = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of mallopt's parameters, from malloc.h."""
DRAIN = 64


def arms(effort: Effort, stack: ExitStack) -> dict[str, Arm]:  # noqa: ARG001  (the harness's signature)
    """Raw TCP, and the stream without and with the copy."""
    seconds = 0.3 if effort.quick else effort.seconds
    return {
        "raw tcp": lambda: raw(seconds),
        "acknowledged": lambda: stream(seconds, copies=False),
        "copied": lambda: stream(seconds, copies=True),
    }


@contextmanager
def sender(kind: str, address: str) -> Iterator[subprocess.Popen[str]]:
    """Start the child that sends; it ends with this context."""
    process = start_python("benchmarks.suite.stream", kind, address)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def rate(seconds: float, take: Callable[[], int]) -> dict[str, float]:
    """Bytes per second that `take` receives, from the first message on."""
    while not take():
        pass
    taken, wall, cpu = 0, time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - wall) < seconds:
        taken += take()
    return {"gb_per_s": taken / passed / 1e9, "cpu_s_per_gb": (time.process_time() - cpu) / max(taken, 1) * 1e9}


def raw(seconds: float) -> dict[str, float]:
    """The rate of one TCP socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener, sender("raw", str(listener.getsockname()[1])):
        connection, _ = listener.accept()
        with connection:
            memory = bytearray(MEGABYTE)
            return rate(seconds, lambda: connection.recv_into(memory))


def stream(seconds: float, *, copies: bool) -> dict[str, float]:
    """The rate of ingest's work from the socket to the queue; with copies, to the batches."""
    receiver = Receiver(copies=copies)
    try:
        with sender("stream", receiver.address):
            return rate(seconds, receiver.turn)
    finally:
        receiver.close()


def keep_memory() -> None:
    """Let malloc keep freed memory, as in the ingest process."""
    libc = ctypes.CDLL(None)
    for name, option in (("MALLOC_MMAP_THRESHOLD_", M_MMAP_THRESHOLD), ("MALLOC_TRIM_THRESHOLD_", M_TRIM_THRESHOLD)):
        assert libc.mallopt(option, int(MALLOC[name])), name


class Receiver:
    """Ingest without a hub: sessions, checks, acknowledgements and optionally the copy into batches."""

    def __init__(self, *, copies: bool) -> None:
        keep_memory()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket = ServerSocket(self._context, max_message_bytes=2**30)
        self.address = self._socket.bind("tcp://127.0.0.1:0")
        credit = CreditLine(batch_rows=CASE.batch_size, queue_batches=4)
        self._journal = Journal()
        self._messages = ActorMessages(STEPS, credit, self._journal, 1)
        self._validator = Validator(CASE.spaces.action, 1e6)
        self._assembler = Assembler(SCHEMA, STEPS)
        self._copies = copies
        self._pieces: list[Slice] = []

    def turn(self) -> int:
        """Receive and acknowledge messages; returns their bytes."""
        self._socket.handle.poll(10)
        taken = 0
        for route, user, frames in self._socket.receive(DRAIN):
            header, payload = two_frames(frames)
            now = time.monotonic()
            arrival = self._messages.receive(route, header, payload, version=0, queued=0, now=now, user=user)
            if arrival is not None:
                taken += self._take(arrival)
        self._messages.committed()
        for route, message in self._messages.outgoing(version=0, queued=0, now=time.monotonic()):
            self._socket.send(route, message)
        return taken

    def _take(self, arrival: Arrival) -> int:
        message, payload = arrival.message, arrival.payload
        self._messages.stored(arrival)
        counts = [message.produced, message.evicted]  # recorded as refused, so that the journal does not keep the block
        self._journal.record("refused", arrival.session.actor_id, message.trajectories, counts)
        size = BlockSize(message.trajectories, message.steps, message.finals, message.episodes)
        arrays = SCHEMA.trajectory.views(payload, size)
        self._validator.check(arrays)
        if self._copies:
            self._pieces.append(Slice(arrays, 0, size.trajectories, 0, 0.0))
            if len(self._pieces) == CASE.batch_size:
                self._assembler.recycle(self._assembler.assemble(0, self._pieces))
                self._pieces = []
        return memoryview(payload).nbytes

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def send_raw(port: str) -> None:
    """The child of raw TCP."""
    memory = bytes(MEGABYTE)
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", int(port))) as connection:
        while True:
            connection.sendall(memory)


def send_blocks(address: str) -> None:
    """The child that sends as an actor does."""
    peer = TrajectorySenderPeer(actor_id=0, incarnation=1, schema=SCHEMA, rows=1, when_full="block")
    line = Connection(address, peer, max_message_bytes=HEADERS_ONLY_BYTES)
    block = synthetic_block(CASE, np.random.default_rng(0))
    while True:
        if line.until(lambda: peer.ready, 1.0):
            peer.offer(block)
            line.turn()


def figures(rounds: Rounds) -> dict[str, Figure]:
    """Fractions of raw TCP."""
    found = {
        "raw tcp": Figure(rounds.median("raw tcp", "gb_per_s"), "GB/s"),
        "raw tcp, the receiver's CPU": Figure(rounds.median("raw tcp", "cpu_s_per_gb"), "s/GB", "lower"),
    }
    for name, goal in GOALS.items():
        found[name] = Figure(rounds.median(name, "gb_per_s"), "GB/s")
        found[f"{name} / raw tcp"] = Figure(rounds.ratio(name, "raw tcp", "gb_per_s"), "x", "higher", goal)
        found[f"{name}, the receiver's CPU"] = Figure(rounds.median(name, "cpu_s_per_gb"), "s/GB", "lower")
    return found


if __name__ == "__main__":
    kind, address = arguments_of(__doc__, kind=str, address=str)
    {"raw": send_raw, "stream": send_blocks}[kind](address)
