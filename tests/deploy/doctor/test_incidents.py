"""What the doctor makes of a run's events and ledger: crashes, an end without order, failed checkpoints and lost data."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.doctor.diagnosis import examine
from deploy.doctor.examined_run import ExaminedRun, examined_folder
from deploy.doctor.findings import Finding
from deploy.doctor.incidents import HARMLESS, SAID_OTHERWISE, TROUBLE
from oatmill.errors import UserError
from recipes.registry import find_recipe
from runner.folder import RunFolder
from runner.settings import write_config

ROOT = Path(__file__).parents[3]
ADDS_EVENTS = {"event", "add", "_notice", "say"}
"""The functions whose argument is an event's name."""


def names_in_the_code() -> Iterator[str]:
    """The event names in all calls that add an event, those built from a role and those in dicts included."""
    for package in ("actors", "learner", "oatmill", "replay", "runner"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                    called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                    if called in ADDS_EVENTS:
                        yield from map(ast.unparse, node.args)
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "event":
                    yield from re.findall(r"'\w+'", ast.unparse(node.value))
                if isinstance(node, ast.Dict):
                    yield from (
                        ast.unparse(value)
                        for key, value in zip(node.keys, node.values, strict=True)
                        if key is not None and ast.unparse(key) == "'event'"
                    )


def test_every_event_is_trouble_or_deliberately_not() -> None:
    found = {name.strip("'") for name in names_in_the_code() if re.fullmatch(r"'[a-z]+(_[a-z]+)*'", name)}
    found |= {"learner_restarted", "replay_restarted"}  # from the role
    assert "f'{self._role}_restarted'" in set(names_in_the_code())
    known = [*TROUBLE, *SAID_OTHERWISE, *HARMLESS]
    assert len(known) == len(set(known)), "each is in one group"
    assert found == set(known), "a new event must be put into a group of deploy/doctor/incidents.py"


def run_with(*events: dict[str, Any], **more: Any) -> ExaminedRun:
    return ExaminedRun("a run", (), {}, events=events, folder=Path("/runs/one"), **more)


def crash(actor: int, error: str | None, how: str = "ended with exit code 1") -> dict[str, Any]:
    return {"event": "actor_restarted", "actor": actor, "pid": 1, "how": how, "restarts": 1, "error": error}


def the_one(run: ExaminedRun) -> Finding:
    (found,) = examine(run)
    return found


def test_many_restarts_of_actors_are_wrong_and_the_most_frequent_error_and_its_log_are_named() -> None:
    found = the_one(run_with(*[crash(1, "the pole broke")] * 20, crash(0, None, "was killed by SIGKILL")))
    assert found.wrong
    assert found.text == (
        "actors crashed or hung and were restarted 21 times: ended with exit code 1: the pole broke (20 of 21); "
        "see /runs/one/logs/actor-1.log"
    )
    assert not the_one(run_with(crash(0, None))).wrong, "one restart is only a note"


@pytest.mark.parametrize("name", sorted(TROUBLE))
def test_each_trouble_is_reported(name: str) -> None:
    found = the_one(run_with(*[{"event": name, "actor": 2, "text": "because"}] * 3))
    assert "3 times: because" in found.text
    assert found.wrong == (name not in {"evaluator_restarted", "no_more_videos", "log_shortened"})


def test_trouble_that_is_over_is_a_note() -> None:
    failed, written = {"event": "checkpoint_failed", "text": "no space"}, {"event": "checkpoint_written_again", "text": "space"}
    assert the_one(run_with(failed, written, failed)).wrong
    assert not the_one(run_with(failed, written)).wrong
    silent = [{"event": "actor_silent", "actor": actor, "text": "silent"} for actor in (0, 1)]
    back = [{"event": "actor_silent_no_more", "actor": actor} for actor in (0, 1)]
    assert the_one(run_with(*silent, back[0])).wrong, "the other one is still silent"
    assert not the_one(run_with(*silent, *back)).wrong


def test_a_flag_that_an_event_reports_is_no_second_problem() -> None:
    line = {"env_steps": 1, "losses": {}, "red_flags": ["checkpoint_failed"]}
    settings = {"trainer.total_timesteps": 10.0}
    failed = {"event": "checkpoint_failed", "text": "no space"}
    for events, topic in (((failed,), "checkpoints"), ((), "red flag")):
        found = examine(ExaminedRun("a run", (line,), settings, events=events))
        assert [finding.topic for finding in found if finding.wrong] == [topic]


def test_lost_and_rejected_data_are_wrong() -> None:
    counts = {"produced": 9000, "lost": 1200, "dropped": {"rejected": 3, "stale": 4}}
    lost, rejected = examine(run_with(ledger=counts))
    assert lost.wrong
    assert lost.text.startswith("1,200 trajectories were lost")
    assert lost.tries == ("replay.acknowledge=durable",)
    assert rejected.wrong
    assert rejected.text.endswith("see /runs/one/quarantine")
    assert examine(run_with(ledger={"lost": 0, "dropped": {"rejected": 0}})) == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    """A run that has started, with its supervisor."""
    monkeypatch.chdir(tmp_path)
    folder = RunFolder.new(tmp_path / "run", "cartpole")
    write_config(find_recipe("cartpole").resolved([]), folder.config)
    folder.event("started", resume=False)
    yield folder
    folder.release()


def test_a_killed_run_did_not_end_in_order_and_the_command_that_continues_it_is_named(folder: RunFolder) -> None:
    path = folder.path
    with pytest.raises(UserError, match="has not reported a learner step yet"):
        examined_folder(path)  # it still runs
    folder.release()
    found = the_one(examined_folder(path))
    assert found.wrong
    assert found.text.endswith("it has no checkpoint, so start it again in another folder")
    (path / "checkpoints" / "step-20").mkdir()
    (path / "checkpoints" / "latest").symlink_to("step-20")
    found = the_one(examined_folder(path))
    assert found.text == (
        "the run did not end in order: its processes were killed, and there is no summary.json; "
        f"`oatmill train --resume --run-dir {path}` continues it from checkpoint step-20"
    )
    (path / "metrics.jsonl").write_text("{\n{}\n")
    with pytest.raises(UserError, match="damaged"):
        examined_folder(path)


def test_only_what_happened_since_the_last_start_counts(folder: RunFolder) -> None:
    folder.event("actor_restarted", actor=0, how="was killed by SIGKILL", error=None)
    folder.event("started", resume=True)
    folder.event("ended", outcome="failed")
    folder.write_summary({"error": "the learner process ended", "ledger": {"lost": 5}})
    failed, lost = examine(examined_folder(folder.path))
    assert failed.text == "the run failed: the learner process ended"
    assert lost.text.startswith("5 trajectories")
    (folder.path / "events.jsonl").write_text(json.dumps(["no", "event"]) + "\n\x00\n")
    assert not examined_folder(folder.path).events
