"""A real replay server under floods of connections and bytes: the run continues, and nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from oatmill.process.descriptors import raise_descriptor_limit
from protocol.security.keys import make_keys
from tests.protocol.channels.strangers import EMPTY_FRAMES, LARGE_FRAMES, giant_frame, join, pour, start_dialling
from tests.replay.serving import CONFIG, PATIENCE_S, Server, serving, start, total

FILES = 1024
WAVE = 100
"""Connections at a time: as many as the listener's backlog takes, for the system drops the others without a word."""
PERCENT = 60.0
"""Of a core: a hub without descriptors takes 100 for itself, one under this flood, with batches beside it, about 20."""
WATCHED_S = 4.0
"""Dialling alone takes a third of a second, too short to tell a busy process from one that never rests."""
GROWTH_MB = 300
"""What the kernel's and libzmq's buffers hold until the stranger is cut off, on a slow machine."""


@contextmanager
def at_work(folder: Path, keys: Path | None = None, files: int | None = None) -> Iterator[tuple[Server, Callable[[], None]]]:
    """A server, and a function that makes an actor and a learner do one more batch.

    Nothing may be lost in the end.
    """
    with serving(folder, "tcp", keys, files=files) as server:
        learner, actor = server.learner(), server.actor(rows=8)
        learner.publish(0)

        def work() -> None:
            assert actor.sender.wait_ready(PATIENCE_S)
            actor.offer()
            actor.control.heartbeat({}, force=True)
            assert actor.sender.drain(PATIENCE_S)
            batch = learner.take(PATIENCE_S).batch
            learner.batches.consumed(batch.batch_id, 0)

        work()
        yield server, work
        work()
        ledger = server.ask("status")["ledger"]
        assert ledger["produced"] == total(ledger)
        assert (ledger["lost"], ledger["unsent_at_death"], ledger["duplicate"]) == (0, 0, 0)


def cut(server: Server, reason: str) -> int:
    count: int = server.ask("status")["rejected"].get(reason, 0)
    return count


@pytest.mark.parametrize(("name", "stay"), [("control", False), pytest.param("data", True, marks=pytest.mark.slow)])
def test_more_half_open_connections_than_descriptors_do_not_stop_the_run(tmp_path: Path, name: str, stay: bool) -> None:
    if raise_descriptor_limit() < 4 * FILES:
        pytest.skip("this process may not open enough files")
    make_keys(tmp_path / "keys")
    with at_work(tmp_path, tmp_path / "keys", FILES) as (server, work), ExitStack() as flood:
        process = psutil.Process(server.process.pid) if name == "control" else server.ingest
        before, dialled = process.num_fds(), 0
        spent, began = sum(process.cpu_times()[:2]), time.monotonic()
        while dialled <= FILES or cut(server, "too_many_connections") < FILES / 2:
            for _ in range(WAVE):
                flood.enter_context(start_dialling(server.endpoint[name]))
            dialled += WAVE
            work()
            assert process.num_fds() < FILES / 2
            assert dialled < 3 * FILES, "the handshake's time-out ended them, and not the limit of their number"
        while time.monotonic() < began + WATCHED_S:
            work()
        used = 100 * (sum(process.cpu_times()[:2]) - spent) / (time.monotonic() - began)
        assert used < PERCENT
        if not stay:
            flood.close()
        until = time.monotonic() + 60  # a handshake may take 5 s, and the system dials again for those who did not get through
        while process.num_fds() > before + 8:
            assert time.monotonic() < until
            time.sleep(0.1)
        work()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(EMPTY_FRAMES, id="empty"),
        pytest.param(LARGE_FRAMES, id="large", marks=pytest.mark.slow),
        pytest.param(giant_frame(7 * 2**30) + bytes(65536), id="giant", marks=pytest.mark.slow),
    ],
)
def test_an_endless_message_uses_little_memory_and_its_connection_is_closed(tmp_path: Path, data: bytes) -> None:
    with at_work(tmp_path) as (server, work):
        for name in ("control", "weights", "data", "batches"):
            process = psutil.Process(server.process.pid) if name in {"control", "weights"} else server.ingest
            before, most = process.memory_info().rss, 0
            with join(server.endpoint[name]) as stranger:
                pouring = threading.Thread(target=pour, args=(stranger, data, 20.0))
                pouring.start()
                while pouring.is_alive():
                    most = max(most, process.memory_info().rss)
                    work()
                pouring.join()
            assert (most - before) / 2**20 < GROWTH_MB, name
        expected = 4 if data[0] != giant_frame(1)[0] else 1  # libzmq itself refuses so long a frame on three of the sockets
        assert cut(server, "too_much_unread") == expected


@pytest.mark.parametrize(("name", "role"), [pytest.param("data", "ingest", marks=pytest.mark.slow), ("weights", "hub")])
def test_a_server_process_with_too_much_memory_says_so_and_both_end(tmp_path: Path, name: str, role: str) -> None:
    config = CONFIG | {"replay": CONFIG["replay"] | {"memory_bytes": 2**28}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    server = start(tmp_path, "ipc")
    try:
        with server.channels, join(server.endpoint[name]) as stranger:
            pour(stranger, LARGE_FRAMES, 20.0)
        assert server.process.wait(60) != 0
        errors = server.process.communicate()[1]
        assert f"{role}: " in errors
        assert " MiB of memory, and replay.memory_bytes allows 256 MiB; this process ends" in errors
        assert "oatmill: error:" not in errors
    finally:
        server.process.kill()
        server.process.wait()
