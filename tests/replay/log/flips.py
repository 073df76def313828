"""Flips bits of a log and counts how a server starts from it: `python -m tests.replay.log.flips [FLIPS] [SEED]`."""

from __future__ import annotations

import logging
import random
import sys
from collections import Counter
from copy import deepcopy
from typing import Any

from oatmill.errors import UserError
from replay.ingest.core import IngestCore
from replay.log.journal import Journal
from tests.replay.conversation import Conversation, batches_in
from tests.replay.log.fake_disk import FakeDisk
from tests.replay.serving import total

ACTORS = 2
RESTARTED_AT = 6


def open_journal(disk: FakeDisk, segment_bytes: int) -> Journal:
    """A durable journal on the disk."""
    return Journal.open(
        disk, durable=True, keep_trained=False, steps=2, kept_bytes=2**30, segment_bytes=segment_bytes, run="0123456789abcdef"
    )


def written_log(segment_bytes: int) -> tuple[FakeDisk, dict[str, Any]]:
    """Return a log after some batches, with waiting blocks of two actors, and the ledger.

    One actor was restarted.
    """
    disk, talk = FakeDisk(), Conversation()
    talk.core = IngestCore(talk.core._settings, journal=open_journal(disk, segment_bytes), server=1)
    talk.hub(0)
    for actor in range(ACTORS):
        talk.hello(actor)
    talk.learn()
    version = 0
    for number in range(12):
        if number == RESTARTED_AT:
            talk.hello(0, incarnation=2)
        talk.send(2 * (number % RESTARTED_AT), actor=0, incarnation=1 + number // RESTARTED_AT)
        talk.send(2 * number, actor=1)
        if number < 10:
            ((batch, _),) = batches_in(talk.get(version=version))
            version += 1
            talk.consumed(batch.batch_id, version=version)
            talk.hub(version)
    talk.core.journal.close()
    return disk, talk.core.ledger()


def outcome_of(disk: FakeDisk, segment_bytes: int, truth: dict[str, Any]) -> str:
    """How a server starts from a damaged log."""
    try:
        journal = open_journal(disk, segment_bytes)
        ledger = IngestCore(Conversation().core._settings, journal=journal, server=2).ledger()
    except UserError:
        return "refused with a line"
    except Exception as error:
        return f"crashed: {type(error).__name__}"
    return judged(ledger, truth, said=bool(getattr(journal, "damage", ())))


def judged(ledger: dict[str, Any], truth: dict[str, Any], *, said: bool) -> str:
    """Compare a ledger with the one before the damage."""
    if ledger["produced"] != total(ledger) or ledger["lost"] < 0 or ledger["trained"] > truth["trained"]:
        return "the ledger does not balance"
    how = "said" if said else "silent"
    if ledger["produced"] < truth["produced"]:
        return f"{how}: produced fell"
    kept, whole = ({**one, "queued": one["queued"] + one["in_flight"], "in_flight": 0} for one in (ledger, truth))
    if kept == whole:
        return "nothing lost"
    return f"{how}: counted as lost" if ledger["lost"] > 0 else f"{how}: rows moved in the ledger"


def count(flips: int, seed: int, segment_bytes: int) -> Counter[str]:
    """Flip one bit at a time."""
    disk, truth = written_log(segment_bytes)
    draw, outcomes = random.Random(seed), Counter[str]()
    names = [name for name in disk.names() if name.endswith(".log")]
    for _ in range(flips):
        damaged = deepcopy(disk)
        name = draw.choice(names)
        damaged.files[name][draw.randrange(len(damaged.files[name]))] ^= 1 << draw.randrange(8)
        outcomes[outcome_of(damaged, segment_bytes, truth)] += 1
    return outcomes


def main() -> None:
    """Print the outcomes of one segment, and of several."""
    logging.disable()
    flips, seed = (int(value) for value in (*sys.argv[1:], "1000", "0")[:2])
    for segment_bytes in (2**20, 3000):
        outcomes = count(flips, seed, segment_bytes)
        sys.stdout.write(f"segments of {segment_bytes} bytes, {flips} flips: {dict(outcomes.most_common())}\n")


if __name__ == "__main__":
    main()
