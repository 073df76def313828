from __future__ import annotations

import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oatmill.errors import WireError
from protocol.wire.codec import decode
from protocol.wire.reasons import REJECTED_REASONS
from tests.replay.bad_messages import SCHEMA, SOCKETS
from tests.replay.fuzzing import attack, good_messages, mutated, raw_attacks
from tests.replay.serving import Server, serving, total
from tests.replay.simulation.listeners import LISTENERS, DataListener

MUTATIONS = 1500
MAX_GROWTH_BYTES = 64e6

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


@given(st.binary(max_size=300) | st.dictionaries(st.sampled_from(["kind", "rows", "first", "x"]), values).map(msgpack.packb))
@settings(max_examples=80, deadline=None)
def test_any_bytes_are_a_message_or_are_rejected_with_a_known_reason(header: bytes) -> None:
    for classes in SOCKETS.values():
        reason = ""
        try:
            assert isinstance(decode(header, classes), classes)
        except WireError as error:
            reason = error.reason
        assert reason in {"", *REJECTED_REASONS}


def fuzz(socket: str, seed: int, mutations: int) -> None:
    """Send changed messages to one listener after the other; each must accept a good one at the end."""
    random, good = Random(seed), good_messages(socket)
    for _ in range(0, mutations, 10):
        listener = LISTENERS[socket]()
        for _ in range(10):
            frames = mutated(random, random.choice(good), good)
            try:
                listener.hear(frames)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {frames!r} ended {socket} by {error!r}") from error
        assert set(listener.counted()) <= set(REJECTED_REASONS)
        if isinstance(listener, DataListener):
            check_books(listener)


def check_books(listener: DataListener) -> None:
    """The ledger balances, nothing stored is lost, credit is not negative, and a new actor is welcome.

    A changed HELLO may claim acknowledgements that this server never gave: they count as lost with a server before it.
    """
    core = listener.talk.core
    ledger = core.ledger()
    assert ledger["produced"] == total(ledger)
    assert ledger["lost"] == core.sessions.forgotten
    assert core._credit.outstanding + core._credit.late == sum(session.credit for session in core.sessions) >= 0
    listener.talk.hello(77, schema=SCHEMA)
    assert listener.talk.session(77).open


@pytest.mark.parametrize("socket", SOCKETS)
def test_slightly_changed_messages_end_no_process(socket: str) -> None:
    fuzz(socket, seed=1, mutations=MUTATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("socket", SOCKETS)
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_slightly_changed_messages_end_no_process(socket: str, seed: int) -> None:
    fuzz(socket, seed, mutations=20_000)


def memory(server: Server) -> int:
    """Resident bytes of both processes."""
    return sum(psutil.Process(pid).memory_info().rss for pid in (server.process.pid, server.ingest.pid))


def bombard(folder: Path, seconds: float, seed: int = 0) -> tuple[int, int]:
    """Attack every socket of a working server; returns the number of connections, and the growth of memory in bytes."""
    random, connections = Random(seed), 0
    with serving(folder, "tcp") as server:
        trainer, sender = server.learner(), server.actor(rows=8)
        trainer.publish(0)
        client, welcome = server.join_actor()
        client.close()
        addresses = {"control": server.control, **welcome.endpoints}
        good = {name: good_messages(name) for name in addresses}
        before, end = memory(server), time.monotonic() + seconds
        while time.monotonic() < end:
            for name, address in addresses.items():
                for data in raw_attacks(random, good[name]):
                    attack(address, data)
                    connections += 1
            sender.control.heartbeat({"env_steps": connections})  # who says nothing for 5 s is taken for dead
            trainer.control.heartbeat({})
            assert server.process.poll() is None, f"seed {seed}: the server ended after {connections} connections"
        for _ in range(2):
            assert sender.sender.wait_ready(60)
            sender.offer()
            assert trainer.take().batch.size == 8
        return connections, memory(server) - before


def test_raw_bytes_on_every_socket_end_no_process_and_use_no_memory(tmp_path: Path) -> None:
    connections, grown = bombard(tmp_path, 2.0)
    assert connections >= 40
    assert grown < MAX_GROWTH_BYTES, f"{grown / 1e6:.0f} MB more after {connections} connections"


@pytest.mark.slow
def test_raw_bytes_for_a_minute_end_no_process_and_use_no_memory(tmp_path: Path) -> None:
    connections, grown = bombard(tmp_path, 60.0, seed=1)
    sys.stdout.write(f"{connections} connections, {grown / 1e6:.1f} MB more\n")  # shown by pytest -s
    assert grown < MAX_GROWTH_BYTES, f"{grown / 1e6:.0f} MB more after {connections} connections"
