"""Servers close connections that are too many or send too much. Real sockets, in this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from protocol.channels.connection_limits import FIRST_BYTES, MANY, MUCH, ConnectionLimits, OpenConnection, crowding
from protocol.channels.sockets import ClientSocket, ServerSocket
from tests.protocol.channels.strangers import EMPTY_FRAMES, LARGE_FRAMES, dial, ended, giant_frame, join, pour


class Serving:
    """A server that echoes messages in a thread."""

    def __init__(self, server: ServerSocket) -> None:
        self.server, self.address = server, server.bind("tcp://127.0.0.1:0")
        self.messages = 0
        self.cut: dict[str, int] = {}
        self._ended = threading.Event()
        self._strangers = ExitStack()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            self.server.handle.poll(10)
            for route, _, (header, payload) in self.server.receive(64):
                self.messages += 1
                self.server.send(route, (bytes(header), bytes(payload)))
            for reason, count in self.server.cut().items():
                self.cut[reason] = self.cut.get(reason, 0) + count

    def dial(self, **how: Any) -> socket.socket:
        return self._strangers.enter_context(dial(self.address, **how))

    def join(self) -> socket.socket:
        return self._strangers.enter_context(join(self.address))

    def end(self) -> None:
        self._strangers.close()
        self._ended.set()
        self._thread.join()
        self.server.close()


@contextmanager
def serving(*, most: int = 40, first_bytes: int = FIRST_BYTES, allow: int = 0) -> Iterator[Serving]:
    with zmq.Context() as context, pytest.MonkeyPatch.context() as patch:
        patch.setattr("protocol.channels.sockets.connections_of", lambda *_: most)
        found = Serving(ServerSocket(context, max_message_bytes=8 * 2**30, first_bytes=first_bytes))
        found.server.allow(allow)
        try:
            yield found
        finally:
            found.end()


def echoed(client: ClientSocket, payload: bytes = b"payload", within_s: float = 60.0) -> bool:
    """Whether one message comes back."""
    client.send([(b"header", payload)])
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        client.wait(0.05)
        client.send()
        if list(client.receive()):
            return True
    return False


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------------------------ how many


def test_the_newest_unknown_connections_and_all_known_ones_stay() -> None:
    with serving(most=40) as serving_, closing(ClientSocket(serving_.address)) as client:
        assert echoed(client)
        silent = []
        for _ in range(25):  # of 40, ten may be silent
            silent.append(serving_.dial())
            time.sleep(0.002)
        until(lambda: serving_.cut.get(MANY, 0) >= 15)
        assert [ended(connection, 1.0 if number < 15 else 0.05) for number, connection in enumerate(silent)] == [True] * 15 + [
            False
        ] * 10
        until(lambda: serving_.cut == {MANY: 15})
        assert echoed(client)


def test_a_client_is_known_even_if_its_message_is_read_before_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    take_events, noticing = ConnectionLimits._take_events, threading.Event()

    def take_later(limits: ConnectionLimits) -> None:
        noticing.wait()
        take_events(limits)

    monkeypatch.setattr(ConnectionLimits, "_take_events", take_later)
    with serving(most=40) as serving_, closing(ClientSocket(serving_.address)) as client:
        try:
            assert echoed(client)
        finally:
            noticing.set()
        for _ in range(25):  # the client is the oldest connection, and the first to be closed if it is not known
            serving_.dial()
        until(lambda: serving_.cut.get(MANY, 0) >= 15)
        assert echoed(client)
        assert serving_.cut == {MANY: 15}


def test_an_address_with_many_connections_loses_some_and_another_address_gets_in() -> None:
    with serving(most=40) as serving_:
        quiet = serving_.dial(source="127.0.0.2")
        for _ in range(30):
            serving_.dial(source="127.0.0.3")
        until(lambda: serving_.cut.get(MANY, 0) >= 21)  # 31 silent ones, of which ten may be
        assert not ended(quiet, 0.2)


def test_the_oldest_connections_of_the_fullest_address_are_chosen() -> None:
    found = [OpenConnection(number, number, address) for number, address in enumerate("abbbbcc")]
    # By hand: b has four and c two. The two oldest of b go first, then the oldest of b and of c, which have two each.
    assert [connection.fd for connection in crowding(found, 2)] == [1, 2]
    assert sorted(connection.fd for connection in crowding(found, 4)) == [1, 2, 3, 5]
    assert len(crowding(found, 100)) == 7


def test_clients_beyond_the_limit_are_rejected_and_the_first_stay() -> None:
    with serving(most=8) as serving_:
        clients = []
        for _ in range(8):  # one after the other: only two may be unknown
            clients.append(ClientSocket(serving_.address))
            assert echoed(clients[-1])
        late = serving_.dial()
        assert ended(late)
        assert all(echoed(client) for client in clients)
        assert serving_.cut[MANY] >= 1
        for client in clients:
            client.close()


def test_if_there_are_too_many_known_clients_the_newest_are_closed() -> None:
    with serving() as serving_:
        clients = [ClientSocket(serving_.address) for _ in range(4)]
        assert all(echoed(client) for client in clients)
        watch = serving_.server._connections
        assert watch is not None
        first, second, third, fourth = watch._open.values()
        # A message that comes before the watching thread has heard of its connection does not count; the next one does.
        until(lambda: all(map(echoed, clients)) and all(connection.known for connection in (first, second, third, fourth)))
        watch._most = 2
        serving_.dial()  # five are three too many: the one that is unknown, and two more
        until(lambda: third.cut and fourth.cut)
        assert not first.cut
        assert not second.cut
        for client in clients:
            client.close()


def test_a_reused_descriptor_is_not_closed() -> None:
    with serving() as serving_:
        watch = serving_.server._connections
        assert watch is not None
        serving_.dial()
        until(lambda: len(watch._open) == 1)
        (connection,) = watch._open.values()
        ours, theirs = socket.socketpair()
        watch._close(OpenConnection(ours.fileno(), connection.inode, "127.0.0.1"), MANY)
        ours.send(b"still open")
        assert theirs.recv(16) == b"still open"
        assert serving_.cut == {}
        for each in (ours, theirs):
            each.close()


def test_descriptors_of_connections_that_have_ended_are_forgotten() -> None:
    with serving(most=400) as serving_, closing(ClientSocket(serving_.address)) as client:
        watch = serving_.server._connections
        assert watch is not None
        assert echoed(client)
        before = open_files()
        for _ in range(50):
            serving_.dial().close()
        until(lambda: len(watch._open) == 1)
        until(lambda: open_files() <= before)


# ------------------------------------------------------------------------------------------------------------ how much


@pytest.mark.parametrize("data", [EMPTY_FRAMES, LARGE_FRAMES, giant_frame(7 * 2**30) + bytes(65536)])
def test_a_connection_that_sends_much_before_a_whole_message_is_closed(data: bytes) -> None:
    with serving() as serving_, closing(ClientSocket(serving_.address)) as client:
        assert echoed(client)
        stranger = serving_.join()
        pour(stranger, data, 5.0)
        assert ended(stranger)
        until(lambda: serving_.cut == {MUCH: 1})
        assert echoed(client)


def test_a_known_connection_with_an_endless_message_is_closed_when_memory_grows() -> None:
    with serving(allow=2**20) as serving_, closing(ClientSocket(serving_.address)) as client:
        stranger = serving_.join()
        stranger.sendall(b"\x01\x01a\x00\x01b")
        until(lambda: serving_.messages == 1)
        sent = pour(stranger, LARGE_FRAMES, 10.0)
        assert ended(stranger)
        until(lambda: serving_.cut == {MUCH: 1})
        assert sent < 2**30
        assert echoed(client)


def test_a_large_message_that_is_allowed_arrives() -> None:
    with serving(allow=2 * 80 * 2**20) as serving_, closing(ClientSocket(serving_.address)) as client:
        assert echoed(client)
        for _ in range(3):
            assert echoed(client, bytes(80 * 2**20), 20.0)
        assert serving_.cut == {}


def test_no_connection_is_closed_while_the_server_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as serving_:
        monkeypatch.setattr(serving_.server, "receive", lambda _limit: [])
        stranger = serving_.join()
        pour(stranger, LARGE_FRAMES, 0.5)
        assert not ended(stranger, 0.3)
        monkeypatch.undo()
        assert ended(stranger)


def test_a_message_with_many_frames_is_not_kept_completely() -> None:
    with zmq.Context() as context:
        server = ServerSocket(context)
        address = server.bind("tcp://127.0.0.1:0")
        with context.socket(zmq.DEALER) as client:
            client.connect(address)
            client.send_multipart([b"x"] * 1000)
            client.send_multipart([b"header", b"payload"])
            server.handle.poll(5000)
            time.sleep(0.1)
            kept = [frames for _, _, frames in server.receive(2)]
        assert [len(frames) for frames in kept] == [16, 2]
        server.close()


def test_watching_continues_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(most=4) as serving_:
        watch = serving_.server._connections
        assert watch is not None
        failed = threading.Event()

        def fail() -> None:
            failed.set()
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(watch, "_cut_too_many", fail)
            first = serving_.dial()
            assert failed.wait(60)
        serving_.dial()
        assert ended(first)
