"""The pages of a role, fetched as Prometheus and an orchestrator would."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

from oatmill.errors import UserError
from oatmill.process import http as http_module
from oatmill.process.http import HttpServer, Pages


class Switch:
    """Something that is healthy until it is not."""

    on = True

    def __call__(self) -> bool:
        return self.on


@pytest.fixture
def health() -> Switch:
    return Switch()


@pytest.fixture
def server(health: Switch) -> Iterator[HttpServer]:
    registry = CollectorRegistry()
    Gauge("oatmill_example", "An example.", registry=registry).set(3)
    made = HttpServer("127.0.0.1", 0, Pages(registry, health, lambda: True, {"/actors": lambda: [{"id": 0}]}))
    yield made
    made.close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_role_shows_metrics_health_and_its_own_pages(server: HttpServer, health: Switch) -> None:
    root = server.url.removesuffix("/metrics")
    status, text = get(server.url)
    assert status == 200
    assert "oatmill_example 3.0" in text
    assert get(f"{root}/healthz")[0] == get(f"{root}/readyz")[0] == 200
    assert get(f"{root}/actors") == (200, '[{"id": 0}]')
    health.on = False
    assert get(f"{root}/healthz") == (503, "no progress\n")
    assert get(f"{root}/else") == (404, "expected one of /metrics, /healthz, /readyz, /actors\n")


def test_a_taken_port_is_one_line_that_says_what_to_do(server: HttpServer) -> None:
    port = int(server.url.split(":")[2].split("/")[0])
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}: Address already in use; choose another metrics\.port"):
        HttpServer("127.0.0.1", port, Pages(CollectorRegistry(), lambda: True, lambda: True))


def place_of(server: HttpServer) -> tuple[str, int]:
    return "127.0.0.1", int(server.url.split(":")[2].split("/")[0])


@contextlib.contextmanager
def clients(server: HttpServer, count: int, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that have said something, or nothing, and then only hang on."""
    made = [socket.create_connection(place_of(server), timeout=10) for _ in range(count)]
    try:
        for client in made:
            with contextlib.suppress(OSError):
                client.sendall(said)
        yield made
    finally:
        for client in made:
            client.close()


def closed_after(client: socket.socket, drip: bytes = b"", within_s: float = 60.0) -> float:
    """Seconds until the server has closed a connection, to which a byte is sent again and again."""
    began = time.monotonic()
    client.settimeout(0.05)
    while time.monotonic() - began < within_s:
        try:
            client.sendall(drip)
            if client.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


def until(done: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, f"nothing like this within {within_s:g} s"
        time.sleep(0.01)


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/actors", "/else"])
def test_head_returns_the_headers_of_get_without_the_body(server: HttpServer, path: str) -> None:
    answers = []
    for method in ("GET", "HEAD"):
        connection = http.client.HTTPConnection(*place_of(server), timeout=10)
        connection.request(method, path)
        answer = connection.getresponse()
        answers.append((answer.status, answer.headers["Content-Type"], answer.headers["Content-Length"]))
        page = answer.read()
        connection.close()
    assert answers[0] == answers[1]
    assert page == b""


def test_no_name_is_looked_up_for_a_numeric_address(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that does not answer holds a start up for 10 s and more.
    def ask(*_arguments: Any) -> Any:
        raise AssertionError("a name server was asked")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo"):
        monkeypatch.setattr(socket, name, ask)
    server = HttpServer("0.0.0.0", 0, Pages(CollectorRegistry(), lambda: True, lambda: True))
    try:
        assert server.url.startswith("http://0.0.0.0:")
        assert get(server.url.replace("0.0.0.0", "127.0.0.1").replace("metrics", "healthz")) == (200, "ok\n")
    finally:
        server.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("host", "shown", "asked"),
    [
        ("::1", "[::1]", ["[::1]"]),
        ("[::1]", "[::1]", ["[::1]"]),
        ("::", "[::]", ["[::1]", "127.0.0.1"]),
        ("localhost", "localhost", ["127.0.0.1"]),
    ],
)
def test_an_ipv6_address_is_served_and_shown_in_brackets(host: str, shown: str, asked: list[str]) -> None:
    server = HttpServer(host, 0, Pages(CollectorRegistry(), lambda: True, lambda: True))
    try:
        port = server.url.rpartition(":")[2].partition("/")[0]
        assert server.url == f"http://{shown}:{port}/metrics"
        for address in asked:
            assert get(f"http://{address}:{port}/healthz") == (200, "ok\n")
    finally:
        server.close()


@pytest.mark.parametrize("host", ["198.18.7.7", "no.such.host.invalid", "a..b", "::zz"])
def test_an_address_of_another_machine_is_an_error_of_one_line(host: str) -> None:
    with pytest.raises(UserError, match=r"^cannot serve metrics on .*or a metrics\.host that is an address of this machine$"):
        HttpServer(host, 0, Pages(CollectorRegistry(), lambda: True, lambda: True))


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"])
def test_three_hundred_slow_clients_use_few_threads_and_do_not_block_a_scrape(server: HttpServer, said: bytes) -> None:
    before = threading.active_count()
    with clients(server, 300, said):
        began = time.monotonic()
        assert get(server.url)[0] == 200
        assert threading.active_count() - before <= 2 * http_module.MOST_CONNECTIONS  # some are about to end
        assert time.monotonic() - began < 2
    until(lambda: threading.active_count() == before)


def test_a_new_client_replaces_the_oldest_one(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "MOST_CONNECTIONS", 2)
    with clients(server, 3, b"GET /healthz HTTP/1.0\r\n") as (oldest, _, newest):
        assert closed_after(oldest) < 2
        newest.sendall(b"\r\n")
        assert newest.recv(100).startswith(b"HTTP/1.0 200")


def test_a_client_that_sends_its_request_too_slowly_is_disconnected(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "READ_WITHIN_S", 0.5)
    with clients(server, 1, b"GET /healthz HTTP/1.0\r\nX: ") as (client,):
        assert 0.3 < closed_after(client, drip=b"x") < 3


def test_a_client_that_does_not_read_the_response_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "ANSWER_WITHIN_S", 0.5)
    large = "x" * 50_000_000  # more than the buffers of both sides
    server = HttpServer("127.0.0.1", 0, Pages(CollectorRegistry(), lambda: True, lambda: True, {"/large": lambda: large}))
    before = threading.active_count()
    try:
        with clients(server, 1, b"GET /large HTTP/1.0\r\n\r\n"):
            until(lambda: threading.active_count() > before)
            until(lambda: threading.active_count() == before)
    finally:
        server.close()
