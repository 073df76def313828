"""An HTTP server for /metrics, /healthz, /readyz and JSON pages of a role. Its threads only read."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from oatmill.errors import UserError

_log = logging.getLogger("oatmill.http")

READ_WITHIN_S = 5.0
"""A client that has not sent its whole request after this long is disconnected, even if it is still
sending."""
ANSWER_WITHIN_S = 30.0
"""A client that has not read the whole response after this long is disconnected."""
MOST_CONNECTIONS = 32
"""The largest number of connections, and so of threads. A further one replaces the one with the
nearest deadline."""


@dataclass(frozen=True)
class Pages:
    """The pages to serve."""

    registry: CollectorRegistry
    healthy: Callable[[], bool]  # whether the role makes progress
    ready: Callable[[], bool]  # whether the role can be used
    more: Mapping[str, Callable[[], Any]] = field(default_factory=dict)  # functions that return JSON values, by path


class HttpServer:
    """Serves pages in its own threads until it is closed.

    Args:
        host: the address to listen on: IPv4, IPv6 (with or without brackets), or a name of this
            machine.
        port: the port; 0 takes a free one.
        pages: the pages to serve.

    Attributes:
        url: the URL of /metrics.

    Raises:
        UserError: if the port is taken, or the address is not one of this machine.
    """

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        handler = type("Handler", (_Handler,), {"pages": pages})
        host = host.strip("[]")
        shown = f"[{host}]" if ":" in host else host
        try:
            self._server = _Server(host, port, handler)
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot serve metrics on {shown}:{port}: {getattr(error, 'strerror', error)}; choose another metrics.port, "
                "or a metrics.host that is an address of this machine"
            ) from None
        self.url = f"http://{shown}:{self._server.server_port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # a burst of connections waits here instead of trying again after a second

    def __init__(self, host: str, port: int, handler: type[_Handler]) -> None:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # For a name with addresses of both kinds, IPv4 is used.
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        self.address_family = family
        self._deadlines: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)  # type: ignore[arg-type]  # an IPv6 address has four parts

    def server_bind(self) -> None:
        """Bind. Unlike `HTTPServer`, do not look up this host's full name: the name server may not answer."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # `::` includes all IPv4 addresses
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread. If there are too many, end the one with the nearest deadline."""
        with self._lock:
            if len(self._deadlines) >= MOST_CONNECTIONS:
                self._drop(min(self._deadlines, key=self._deadlines.__getitem__))
            self._deadlines[request] = time.monotonic() + READ_WITHIN_S
        super().process_request(request, client_address)

    def answering(self, request: socket.socket) -> None:
        """Note that a client has sent its whole request."""
        with self._lock:
            if request in self._deadlines:
                self._deadlines[request] = time.monotonic() + ANSWER_WITHIN_S

    def service_actions(self) -> None:
        """Disconnect clients that are too slow. Called several times per second."""
        now = time.monotonic()
        with self._lock:
            for request in [request for request, deadline in self._deadlines.items() if now > deadline]:
                self._drop(request)

    def _drop(self, request: socket.socket) -> None:
        """Shut a connection down. The thread that serves it then closes it."""
        del self._deadlines[request]
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that has been served."""
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a request that was interrupted, such as a scrape that timed out, without a traceback."""
        _log.debug("a request from %s to %s was interrupted", client_address, request, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    pages: Pages
    server: _Server
    timeout = ANSWER_WITHIN_S

    def do_GET(self) -> None:
        """Answer one request."""
        self.server.answering(self.connection)
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.pages.registry))
            case "/healthz":
                self._flag(self.pages.healthy(), "no progress")
            case "/readyz":
                self._flag(self.pages.ready(), "not ready")
            case path if path in self.pages.more:
                self._answer(200, "application/json", json.dumps(self.pages.more[path]()).encode())
            case _:
                known = ", ".join(["/metrics", "/healthz", "/readyz", *self.pages.more])
                self._answer(404, "text/plain", f"expected one of {known}\n".encode())

    do_HEAD = do_GET
    """The same without the body."""

    def _flag(self, good: bool, problem: str) -> None:  # noqa: FBT001 -- a status, read as one
        self._answer(200 if good else 503, "text/plain", b"ok\n" if good else f"{problem}\n".encode())

    def _answer(self, code: int, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Log nothing: Prometheus sends a request every few seconds."""
