"""The pages of a role, fetched as Prometheus and an orchestrator would."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from protocol.errors import UserError
from protocol.http import HttpServer, Pages


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


def test_a_taken_port_is_one_line_that_names_the_way_out(server: HttpServer) -> None:
    port = int(server.url.split(":")[2].split("/")[0])
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}: Address already in use; choose another metrics\.port"):
        HttpServer("127.0.0.1", port, Pages(CollectorRegistry(), lambda: True, lambda: True))
