"""The receiver of alerts: its lines, what it refuses, and a real Alertmanager that sends to it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.alert_log import AlertLog, lines_of
from tests.deploy.doctor.prometheus_server import SHIPPED, need
from tests.ports import free_ports

ALERT = {
    "status": "firing",
    "labels": {"alertname": "ActorsMissing", "severity": "warning", "run": "baseline"},
    "annotations": {"summary": "1 of 4 actors\nis missing", "runbook_url": "docs/operations/alerts.md#actorsmissing"},
    "startsAt": "2026-01-02T03:04:05.678Z",
    "endsAt": "0001-01-01T00:00:00Z",
}
LINE = (
    "2026-01-02T03:04:05Z firing warning ActorsMissing baseline: 1 of 4 actors is missing "
    "(docs/operations/alerts.md#actorsmissing)"
)


@pytest.fixture
def log() -> Iterator[tuple[str, list[str]]]:
    """The URL of a receiver, and the lines that it has written."""
    lines: list[str] = []
    with AlertLog("127.0.0.1", 0, lines.append) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", lines
        server.shutdown()
        thread.join()


def post(url: str, content: bytes) -> int:
    """The status of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_alert_is_a_line_when_it_begins_and_when_it_ends() -> None:
    ended = ALERT | {"status": "resolved", "endsAt": "2026-01-02T04:00:00.1Z"}
    watchdog = ALERT | {"labels": {"alertname": "Watchdog"}}
    assert list(lines_of({"alerts": [ALERT, watchdog, ended]})) == [
        LINE,
        "2026-01-02T04:00:00Z resolved warning ActorsMissing baseline: 1 of 4 actors is missing",
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"alerts": [{}]}', b'{"alerts": 1}'])
def test_other_messages_are_refused_and_the_receiver_goes_on(log: tuple[str, list[str]], content: bytes) -> None:
    url, lines = log
    assert post(url, content) == 400
    assert post(url, json.dumps({"alerts": [ALERT]}).encode()) == 200
    assert lines == [LINE]


@pytest.mark.timeout(180)
def test_alertmanager_with_the_shipped_configuration_sends_an_alert(log: tuple[str, list[str]], tmp_path: Path) -> None:
    url, lines = log
    shipped = (SHIPPED / "alertmanager.yml").read_text()
    assert "http://alert-log:9095/" in shipped
    config = tmp_path / "alertmanager.yml"
    config.write_text(shipped.replace("http://alert-log:9095/", url))
    address = f"127.0.0.1:{free_ports(1)}"
    words = [f"--config.file={config}", f"--storage.path={tmp_path}", f"--web.listen-address={address}"]
    with (tmp_path / "log").open("w") as output:
        manager = subprocess.Popen(
            [need("prometheus-alertmanager"), *words, "--cluster.listen-address="], stdout=output, stderr=output
        )
    try:
        sent: dict[str, Any] = {name: ALERT[name] for name in ("labels", "annotations", "startsAt")}
        request = urllib.request.Request(
            f"http://{address}/api/v2/alerts", json.dumps([sent]).encode(), {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + 150
        while not lines and time.monotonic() < deadline:
            try:  # until it listens, and again: it takes an alert as often as it is told
                urllib.request.urlopen(request, timeout=5).close()
            except OSError:
                assert manager.poll() is None, (tmp_path / "log").read_text()
            time.sleep(1)
        assert lines == [LINE], (tmp_path / "log").read_text()
    finally:
        manager.terminate()
        manager.wait(30)
