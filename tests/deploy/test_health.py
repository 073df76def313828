"""What probes are told, by a real server, a real file, and nothing at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from deploy.cli.entry import run_command
from deploy.health import HEARTBEAT, HOST, MAX_AGE_S, PORT, problem_of
from oatmill.process.http import HttpServer, Pages

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(*, healthy: bool) -> Iterator[str]:
    """The port of a role's pages."""
    server = HttpServer("127.0.0.1", 0, Pages(CollectorRegistry(), lambda: healthy, lambda: True))
    try:
        yield server.url.rpartition(":")[2].partition("/")[0]
    finally:
        server.close()


def test_a_role_that_makes_progress_is_healthy() -> None:
    with serving(healthy=True) as port:
        assert problem_of("replay", {PORT: port}) is None
        assert problem_of("learner", {PORT: port}) is None


def test_a_role_that_stands_still_is_not() -> None:
    with serving(healthy=False) as port:
        assert problem_of("learner", {PORT: port}) == f"http://127.0.0.1:{port}/healthz: 503 no progress"


def test_a_role_that_is_not_there_is_not() -> None:
    with serving(healthy=True) as port:
        pass
    assert "Connection refused" in (problem_of("replay", {PORT: port}) or "")


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("::", "[::1]"),
        ("'::'", "[::1]"),
        ("0.0.0.0", "127.0.0.1"),
        ("localhost", "localhost"),
    ],
)
def test_a_role_is_asked_where_it_listens(host: str, shown: str) -> None:
    server = HttpServer(host.strip("'"), 0, Pages(CollectorRegistry(), lambda: False, lambda: True))
    try:
        port = server.url.rpartition(":")[2].partition("/")[0]
        assert problem_of("learner", {HOST: host, PORT: port}) == f"http://{shown}:{port}/healthz: 503 no progress"
    finally:
        server.close()


def test_an_actor_is_as_healthy_as_its_file_is_young(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    environ = {HEARTBEAT: str(path)}
    assert problem_of("actor", environ) == f"{path}: No such file or directory"
    path.touch()
    assert problem_of("actor", environ) is None
    long_ago = time.time() - MAX_AGE_S - 1
    os.utime(path, (long_ago, long_ago))
    assert "was touched 31 s ago, expected less than 30" in (problem_of("actor", environ) or "")


@pytest.mark.parametrize("environ", [{}, {PORT: "none"}, {PORT: "70000"}])
def test_bad_input_is_a_problem_and_no_traceback(environ: dict[str, str]) -> None:
    assert problem_of("actor", environ) == "OATMILL_HEARTBEAT must name the actor's heartbeat file"
    assert "/healthz" in (problem_of("learner", environ) or "") or "must be a port" in (problem_of("learner", environ) or "")
    assert problem_of("hub", environ) == "expected one of replay, learner, actor, got 'hub'"


def test_the_probe_loads_neither_the_command_line_nor_any_library(tmp_path: Path) -> None:
    (tmp_path / "heartbeat").touch()
    environ = os.environ | {HEARTBEAT: str(tmp_path / "heartbeat"), "PYTHONPATH": str(ROOT)}
    script = "import sys; from deploy.health import main; print(main(['actor']), {'typer', 'yaml', 'zmq'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["0", "set()"]


def test_the_command_exits_1_for_an_unhealthy_role_and_2_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HEARTBEAT, str(tmp_path / "heartbeat"))
    assert run_command(["health", "actor"]) == 1
    assert run_command(["health", "hub"]) == 2
    (tmp_path / "heartbeat").touch()
    assert run_command(["health", "actor"]) == 0
    output = capsys.readouterr()
    assert output.out == "ok\n"
    assert [line.partition("error: ")[2] for line in output.err.splitlines()] == [
        f"{tmp_path / 'heartbeat'}: No such file or directory",
        "expected one of replay, learner, actor, got 'hub'",
    ]
