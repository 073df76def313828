from __future__ import annotations

from collections import Counter

import msgpack
import pytest

from protocol.wire import messages
from protocol.wire.reasons import BAD_MESSAGE, BAD_TRAJECTORY, CLOSED, REFUSALS, REJECTED_REASONS
from replay.ingest.actors.outgoing import MAX_STRIKES
from tests.replay.bad_messages import SCHEMA, SOCKETS, Case, all_cases
from tests.replay.simulation.listeners import LISTENERS, DataListener

IN_ALL = 2500
OF_MASKS = {"masked_action"}
"""Only a run with action masks has it: see test_validation."""


@pytest.mark.parametrize("socket", SOCKETS)
def test_every_bad_message_has_its_reason_and_the_next_good_one_is_accepted(socket: str) -> None:
    for case in all_cases(socket):
        listener = LISTENERS[socket]()
        before = listener.counted()
        answered = listener.hear(case.frames)
        grown = dict(listener.counted() - before)
        if case.counted:
            assert grown == {case.reason: 1}, f"{case.name}: {grown}, not {case.reason}"
        else:
            assert (answered, grown) == ([case.reason], {}), f"{case.name}: {answered} {grown}, not {case.reason}"
        assert listener.goes_on(), f"after {case.name} nothing goes on"


def test_the_corpus_is_large_and_every_reason_is_in_it() -> None:
    cases = [case for socket in SOCKETS for case in all_cases(socket)]
    assert len(cases) >= IN_ALL
    # Who may say what is told in test_zap.
    of_senders = {"unknown_key", "revoked", "role", "identity"}
    # And why a connection is closed in test_connection_limits.
    assert {case.reason for case in cases if case.counted} == set(REJECTED_REASONS) - of_senders - set(CLOSED) - OF_MASKS
    # The three others are not told by one message: see test_sessions.
    assert {case.reason for case in cases if not case.counted} == set(REFUSALS) - {"strikes", "block_size"} | {"schema"}


def moved(frames: list[bytes], first: int) -> list[bytes]:
    """The same block as it would come next: the one before it was refused for good, which is acknowledged."""
    try:
        header = msgpack.unpackb(frames[0])
    except (ValueError, IndexError):
        return frames
    if not isinstance(header, dict) or header.get("first") != 2:
        return frames
    return [msgpack.packb(header | {"first": first, "produced": header["produced"] + first}), frames[1]]


@pytest.mark.parametrize("reason", [reason for reason in (*BAD_MESSAGE, *BAD_TRAJECTORY) if reason not in OF_MASKS])
def test_an_actor_loses_its_credit_with_the_third_bad_message_of_any_kind(reason: str) -> None:
    bad: list[Case] = [case for case in all_cases("data") if case.counted and case.reason == reason]
    listener = DataListener()
    for number in range(MAX_STRIKES):
        assert listener.talk.session().credit > 0
        listener.hear(moved(bad[number % len(bad)].frames, listener.talk.session().next))
    assert listener.talk.session().credit == 0
    assert listener.counted() == Counter({reason: MAX_STRIKES})
    ledger = listener.talk.core.ledger()
    assert ledger["lost"] == 0
    assert not listener.goes_on()
    welcome, *_ = listener.talk.hello(incarnation=2, schema=SCHEMA)
    assert isinstance(welcome, messages.DataWelcome)  # its next incarnation begins anew
