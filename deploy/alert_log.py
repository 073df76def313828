"""The receiver of alerts that works without an account: writes a line for each alert that Alertmanager sends to it.

`python -m deploy.alert_log` listens for Alertmanager's webhook and prints to stdout. Only the standard library is imported.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 9095
LARGEST_BYTES = 1 << 20
READ_WITHIN_S = 10.0
OF_RUN = ("namespace", "run")
QUIET = "Watchdog"
"""It always fires, so its notifications are not written."""


def lines_of(message: Mapping[str, Any]) -> Iterator[str]:
    """A line for each alert of a message of Alertmanager's webhook.

    Raises:
        ValueError: if it is not such a message.
    """
    try:
        for alert in message["alerts"]:
            labels, notes = alert["labels"], alert["annotations"]
            if labels["alertname"] == QUIET:
                continue
            firing = alert["status"] == "firing"
            when = alert["startsAt" if firing else "endsAt"][:19]
            run = "/".join(labels[name] for name in OF_RUN if labels.get(name))
            words = [f"{when}Z", alert["status"], labels.get("severity", ""), labels["alertname"], run]
            text = f"{' '.join(word for word in words if word)}: {notes.get('summary', '')}"
            yield " ".join(f"{text} ({notes['runbook_url']})".split() if firing and "runbook_url" in notes else text.split())
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a message of Alertmanager's webhook, got one without {error}") from None


class AlertLog(ThreadingHTTPServer):
    """The receiver.

    Args:
        host: the address to listen on.
        port: the port; 0 takes a free one.
        write: called with each line.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, write: Callable[[str], object]) -> None:
        self.write = write
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: AlertLog
    timeout = READ_WITHIN_S

    def do_GET(self) -> None:
        self._answer(200, "ok\n")

    def do_POST(self) -> None:
        try:
            found = list(lines_of(json.loads(self._body())))
        except (ValueError, RecursionError) as error:
            self._answer(400, f"{error}\n")
            return
        for line in found:
            self.server.write(line)
        self._answer(200, "ok\n")

    def _body(self) -> bytes:
        size = int(self.headers.get("Content-Length", ""))
        if not 0 <= size <= LARGEST_BYTES:
            raise ValueError(f"expected at most {LARGEST_BYTES} bytes, got {size}")
        return self.rfile.read(size)

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Requests are not logged, only alerts."""


def main(arguments: Sequence[str]) -> None:
    """Listen until the process is ended."""
    parser = argparse.ArgumentParser(prog="alert_log", description="Writes a line for each alert that Alertmanager sends.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT)
    options = parser.parse_args(arguments)
    with AlertLog(options.host, options.port, lambda line: print(line, flush=True)) as server:  # noqa: T201
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
