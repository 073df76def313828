"""The replay server's place in a local run: what a new one is told. Real processes, a hub line that only remembers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from runner.local.child import Child, end_all
from runner.local.services.replay import ReplayService
from runner.operator_client import OperatorClient

BREAKS = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
SLEEPS = "import time; time.sleep(60)"


class Line:
    """Remembers what the hub was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def scale(self, actors: int, *, own: bool) -> None:
        self.told.append((actors, own))

    def stop(self) -> bool:
        self.told.append("stop")
        return True


class Bench:
    """A service whose first server dies at once and whose second one stays."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder, self.children = folder, list[Child]()
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []
        self.service = ReplayService(
            self.start,
            durable=durable,
            max_restarts=1,
            notice=lambda event, text, values: self.events.append((event, text, values)),
            listens=(folder / "replay.json").exists,
        )

    def start(self) -> Child:
        script = SLEEPS if self.children else BREAKS
        self.children.append(Child("replay", 0, [sys.executable, "-c", script], log=self.folder / "log", threads=1))
        (self.folder / "replay.json").write_text("{}")
        return self.children[-1]

    def restart(self) -> None:
        deadline = time.monotonic() + 60
        while len(self.children) < 2:
            assert self.service.turn(reports=0, stopping=False) is not None
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(params=[False, True])
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Bench]:
    monkeypatch.setattr("runner.local.child.BACK_OFF_S", 0.01)
    made = Bench(tmp_path, durable=request.param)
    made.service.begin()
    yield made
    end_all(made.children, grace_s=0)


def test_a_new_server_is_told_how_many_actors_there_shall_be_and_to_stop(bench: Bench) -> None:
    line = Line()
    hub = cast("OperatorClient", line)
    assert bench.service.brief(hub, {"own_actors": 7}, stopping=False) == {"own_actors": 7}
    assert line.told == [], "the first one knows"
    bench.restart()
    # Its own answer comes from config.yaml, before anybody has scaled the run.
    assert bench.service.brief(hub, {"own_actors": 2}, stopping=True) == {"own_actors": 7}
    assert bench.service.brief(hub, {"own_actors": 7}, stopping=True) == {"own_actors": 7}
    assert line.told == [(7, True), "stop"], "each once"
    ((event, text, values),) = bench.events
    assert (event, values["restarts"]) == ("replay_restarted", 1)
    assert "the replay server was killed by SIGKILL" in text
    assert ("is lost" in text) == ("from its log" not in text)


def test_it_is_not_spoken_to_between_its_death_and_its_successors_word(bench: Bench) -> None:
    bench.children[0].wait(time.monotonic() + 60)
    assert bench.service.ready
    bench.service.turn(reports=0, stopping=False)
    assert not bench.service.ready
    bench.restart()
    assert bench.service.ready
