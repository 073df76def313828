"""What is said of actors that send nothing: in the line with which a run ends, and in its events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from learner.reporting.run_files import RunFiles
from learner.reporting.silent_actors import MAX_NAMED, silent_actors
from oatmill.files.run_files import EVENTS_FILE
from tests.learner.reporting.test_run_files import at


def actor(number: int, unused_s: float, *, alive: bool = True) -> dict[str, Any]:
    return {"actor_id": number, "alive": alive, "credit_unused_seconds": unused_s}


def test_actors_that_held_credit_for_half_of_the_wait_are_named() -> None:
    status = {"live": 3, "actors": [actor(7, 20.0), actor(1, 10.0), actor(2, 9.0), actor(3, 20.0, alive=False)]}
    assert silent_actors(status, 20.0) == "actors 1, 7 sent heartbeats but no trajectory; "
    assert silent_actors({"live": 1, "actors": [actor(4, 20.0)]}, 20.0) == "actor 4 sent heartbeats but no trajectory; "


def test_many_silent_actors_are_named_in_part() -> None:
    status = {"live": 1, "actors": [actor(number, 20.0) for number in range(MAX_NAMED + 5)]}
    assert "18, 19 and 5 more sent" in silent_actors(status, 20.0)


def test_the_message_says_that_no_actor_is_alive_and_is_empty_if_no_actor_is_silent() -> None:
    assert silent_actors({"live": 0, "actors": []}, 20.0) == "no actor is alive; "
    assert silent_actors({"live": 1, "actors": [actor(0, 0.0)]}, 20.0) == ""
    assert silent_actors({"live": 1, "actors": [{"actor_id": 0, "alive": True}]}, 20.0) == "", "ingest knows nothing of it yet"


def test_a_silent_actor_is_an_event_and_a_red_flag_until_it_sends_data(tmp_path: Path) -> None:
    files = RunFiles(tmp_path, 1.0, 1000)
    for step, silent in ((1, {}), (2, {"3": 31.0}), (3, {"3": 40.0}), (4, {})):
        files.note_silent(silent, at(step))
        files.note_flags({}, at(step))
        assert ("actor_silent" in files.raised) == bool(silent)
    events = [json.loads(line) for line in (tmp_path / EVENTS_FILE).read_text().splitlines()]
    assert [(event["event"], event["learner_step"]) for event in events] == [
        ("actor_silent", 2),
        ("red_flag_raised", 2),
        ("actor_silent_no_more", 4),
        ("red_flag_cleared", 4),
    ]
    assert events[0]["actor"] == 3
    assert events[0]["reason"].startswith("actor 3 sends heartbeats but no trajectory for 31 s")
    assert files.ever_raised["actor_silent"] == events[0]["reason"]
