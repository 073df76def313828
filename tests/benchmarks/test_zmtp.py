"""The benchmarks' own DEALER talks to libzmq's ROUTER."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from benchmarks.zmtp import Dealer
from protocol.wire.codec import Frames


@pytest.fixture
def router(tmp_path: Path) -> Iterator[tuple[zmq.Socket[bytes], str]]:
    address = f"ipc://{tmp_path}/s"
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.rcvtimeo = 5000
        socket.bind(address)
        yield socket, address
    context.term()


def heard(dealer: Dealer, count: int) -> list[Frames]:
    found: list[Frames] = []
    deadline = time.monotonic() + 60
    while len(found) < count and time.monotonic() < deadline:
        found += dealer.receive()
        time.sleep(0.001)
    return found


@pytest.mark.parametrize("length", [0, 1, 255, 256, 48_000, 5_000_000])
def test_messages_go_there_and_back_at_any_length(router: tuple[zmq.Socket[bytes], str], length: int) -> None:
    server, address = router
    dealer, payload = Dealer(address), bytes(range(256)) * (length // 256) + bytes(range(length % 256))
    try:
        for number in range(3):
            dealer.send((b"header %d" % number, payload))
        for number in range(3):
            while not dealer.idle:
                dealer.send()
            route, *frames = server.recv_multipart()
            assert frames == [b"header %d" % number, payload]
            server.send_multipart([route, b"answer", payload])
        assert heard(dealer, 3) == [(b"answer", payload)] * 3
    finally:
        dealer.close()


def test_each_connection_has_its_own_answers(router: tuple[zmq.Socket[bytes], str]) -> None:
    server, address = router
    dealers = [Dealer(address) for _ in range(5)]
    for number, dealer in enumerate(dealers):
        dealer.send((b"%d" % number, b""))
    for _ in dealers:
        server.send_multipart(server.recv_multipart())
    assert [heard(dealer, 1) for dealer in dealers] == [[(b"%d" % number, b"")] for number in range(5)]
    for dealer in dealers:
        dealer.close()


def test_a_server_that_goes_is_noticed(router: tuple[zmq.Socket[bytes], str]) -> None:
    server, address = router
    dealer = Dealer(address)
    dealer.send((b"here", b""))
    server.recv_multipart()
    server.close()
    with pytest.raises(ConnectionError):
        heard(dealer, 1)
    dealer.close()
