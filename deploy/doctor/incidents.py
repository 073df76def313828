"""What has happened to a run's processes, files and data: its events, and the ledger of its summary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from deploy.doctor.examined_run import ExaminedRun
from deploy.doctor.findings import Finding
from replay.hub.status import EQUAL_STREAMS

MANY_RESTARTS = 3
"""Fewer restarts of actors are worth a note: a machine may be taken away, and the run goes on."""


class Trouble(NamedTuple):
    """What an event means.

    Attributes:
        topic: what the finding is about.
        meaning: what has happened, and what follows from it.
        log: the log that says more, below the run folder; `{actor}` is the event's actor.
        wrong_from: it needs a repair if it has happened so often.
        over_by: the event that says that it is over.
    """

    topic: str
    meaning: str
    log: str = ""
    wrong_from: float = 1
    over_by: str = ""


TROUBLE = {
    "actor_failed": Trouble("actors", "an actor failed again and again, and the run gave up", "logs/actor-{actor}.log"),
    "actor_restarted": Trouble("actors", "actors crashed or hung and were restarted", "logs/actor-{actor}.log", MANY_RESTARTS),
    "learner_restarted": Trouble("learner", "the learner crashed and was restarted", "logs/learner-0.log"),
    "learner_hung": Trouble("learner", "the learner hung and was killed", "logs/learner-0.log"),
    "replay_restarted": Trouble("replay", "the replay server crashed and was restarted", "logs/replay-0.log"),
    "rewound": Trouble("rewinds", "the learner went back to a checkpoint, because its updates or weights were not finite"),
    "checkpoint_failed": Trouble(
        "checkpoints", "a checkpoint could not be written", "logs/learner-0.log", over_by="checkpoint_written_again"
    ),
    "checkpoint_damaged": Trouble("checkpoints", "a checkpoint could not be loaded, and an older one was used"),
    "log_damaged": Trouble("replay log", "the replay server found damage in its log", "logs/replay-0.log"),
    "state_replaced": Trouble("replay log", "a damaged file of the replay server was replaced", "logs/replay-0.log"),
    "actor_silent": Trouble("actors", "an actor sent no data", "logs/actor-{actor}.log", over_by="actor_silent_no_more"),
    "equal_streams": Trouble("actors", f"two actors {EQUAL_STREAMS}"),
    "evaluator_given_up": Trouble("evaluator", "the evaluator crashed too often, and the run has none now"),
    "evaluator_restarted": Trouble("evaluator", "the evaluator crashed and was restarted", wrong_from=math.inf),
    "no_more_videos": Trouble("evaluator", "no video could be made", wrong_from=math.inf),
    "log_shortened": Trouble("logs", "a process prints a lot, and only parts of its output are kept", wrong_from=math.inf),
}
"""The events that mean trouble."""
SAID_OTHERWISE = {
    "actor_hung": "the restart that follows says so",
    "batch_not_finite": "the learner's lines count the skipped updates",
    "red_flag_raised": "the learner's lines have the flags",
}
"""Events that mean trouble which another finding is about, each with where it is said."""
HARMLESS = {
    "started",
    "ended",
    "stop_asked",
    "stop_not_counted",
    "actor_joined",
    "actor_left",
    "actor_silent_no_more",
    "checkpoint_written_again",
    "coefficient_moved",
    "red_flag_cleared",
}


def incidents(run: ExaminedRun) -> Iterator[Finding]:
    """One finding for each kind of trouble in the events since the run was started or resumed."""
    for name, trouble in TROUBLE.items():
        events = [event for event in run.events if event.get("event") == name]
        if events:
            yield finding_of(run, trouble, events)


def finding_of(run: ExaminedRun, trouble: Trouble, events: Sequence[Mapping[str, Any]]) -> Finding:
    """How often it happened, the most frequent reason, and the log that says more."""
    (reason, times), *others = Counter(map(reason_of, events)).most_common()
    text = trouble.meaning + (f" {len(events)} times" if len(events) > 1 else "")
    if reason:
        text += f": {reason}" + (f" ({times} of {len(events)})" if others else "")
    if trouble.log:
        example = next(event for event in reversed(events) if reason_of(event) == reason)
        text += f"; see {place(run, trouble.log.format(**{'actor': 0} | example))}"
    if trouble.over_by and is_over(run.events, events[0]["event"], trouble.over_by):
        return Finding(wrong=False, topic=trouble.topic, text=f"{text}; it is over")
    return Finding(wrong=len(events) >= trouble.wrong_from, topic=trouble.topic, text=text)


def place(run: ExaminedRun, name: str) -> str:
    """A file's path in the run folder."""
    return name if run.folder is None else str(run.folder / name)


def reason_of(event: Mapping[str, Any]) -> str:
    """Why it happened, in words that are the same for the same reason."""
    how, error = event.get("how"), event.get("error")
    return str(event.get("text") or (f"{how}: {error}" if how and error else how or ""))


def is_over(events: Sequence[Mapping[str, Any]], name: str, over_by: str) -> bool:
    """Whether the last event about each actor, or about the learner, is that it is over."""
    last = {event.get("actor"): event["event"] for event in events if event.get("event") in {name, over_by}}
    return name not in last.values()


def ledger(run: ExaminedRun) -> Iterator[Finding]:
    """Data that was lost or rejected."""
    lost, rejected = run.ledger.get("lost") or 0, (run.ledger.get("dropped") or {}).get("rejected") or 0
    if lost:
        text = f"{lost:,} trajectories were lost: the replay server died and only its memory had them, or its log was removed"
        yield Finding(wrong=True, topic="ledger", text=text, tries=("replay.acknowledge=durable",))
    if rejected:
        text = f"{rejected:,} trajectories were rejected, because their content was wrong; see {place(run, 'quarantine')}"
        yield Finding(wrong=True, topic="ledger", text=text)
