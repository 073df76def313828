"""/metrics, /healthz and /readyz of a role, and more pages of its own, in a thread that only reads."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from protocol.errors import UserError

_log = logging.getLogger("oatmill.http")

READ_WITHIN_S = 5.0
"""A client that sends no whole request for this long is dropped."""


@dataclass(frozen=True)
class Pages:
    """What is served."""

    registry: CollectorRegistry
    healthy: Callable[[], bool]  # the role makes progress
    ready: Callable[[], bool]  # it can be worked with
    more: Mapping[str, Callable[[], Any]] = field(default_factory=dict)  # by path: what is answered as JSON


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a request that broke off, as a scraper's that timed out; without a traceback."""
        _log.debug("a request from %s to %s broke off", client_address, request, exc_info=True)


class HttpServer:
    """Serves pages in threads of its own until it is closed.

    Args:
        host: the address to listen on.
        port: the port; 0 takes a free one.
        pages: what is served.

    Attributes:
        url: where /metrics is.

    Raises:
        UserError: if the port is taken.
    """

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        handler = type("Handler", (_Handler,), {"pages": pages})
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise UserError(f"cannot serve metrics on {host}:{port}: {error.strerror}; choose another metrics.port") from None
        self.url = f"http://{host}:{self._server.server_port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    pages: Pages
    timeout = READ_WITHIN_S

    def do_GET(self) -> None:
        """Answer one request."""
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

    def _flag(self, good: bool, problem: str) -> None:  # noqa: FBT001 -- a status, read as one
        self._answer(200 if good else 503, "text/plain", b"ok\n" if good else f"{problem}\n".encode())

    def _answer(self, code: int, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Say nothing: Prometheus asks every few seconds."""
