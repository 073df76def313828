from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocol.data.compression import compressed
from protocol.data.run_schema import RunSchema
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.wire import messages
from protocol.wire.codec import to_json
from replay.ingest.actors.outgoing import MAX_STRIKES
from tests.replay.blocks import SCHEMA, SPACES, block
from tests.replay.conversation import Conversation


def only(answers: list[Any]) -> Any:
    (answer,) = answers
    return answer


def test_the_first_hello_opens_a_session_at_sequence_number_0() -> None:
    talk = Conversation()
    welcome, granted = talk.hello(rows=2)
    assert isinstance(welcome, messages.DataWelcome)
    assert (welcome.incarnation, welcome.next, welcome.version) == (1, 0, 0)
    assert welcome.row_bytes == SCHEMA.row_bytes(2)
    assert granted.credit > 0


def test_credit_is_given_in_whole_blocks_up_to_a_batch_plus_a_block_minus_a_row() -> None:
    talk = Conversation(batch_rows=4, queue_batches=1.0)
    granted = 0
    for actor in range(4):
        talk.hello(actor, rows=2)
    granted = sum(talk.session(actor).credit for actor in range(4))
    # By hand: 1 batch of 4 rows, and a block of 2 less 1, is 5 rows: two blocks of 2 fit.
    assert granted == 4
    assert [talk.session(actor).credit for actor in range(4)] == [2, 2, 0, 0]  # first come, first served


def test_a_stored_block_is_acknowledged_and_the_next_one_follows_it() -> None:
    talk = Conversation()
    talk.hello()
    assert only(talk.send(0)).next == 2
    assert only(talk.send(2)).next == 4
    assert talk.core.queued == 4


def test_a_compressed_block_is_stored_like_any_other_and_takes_up_its_whole_memory() -> None:
    plain, talk = Conversation(), Conversation()
    for each in (plain, talk):
        each.hello()
    plain.send(0)
    packed = SCHEMA.trajectory.pack(block(2))
    payload = compressed(packed)
    assert payload.nbytes < packed.nbytes
    assert only(talk.send(0, payload=payload)).next == 2
    assert talk.core.fleet_summary()["queue"] == plain.core.fleet_summary()["queue"]
    stored, expected = (each.core._queue.take(2)[0].arrays for each in (talk, plain))
    assert all(np.array_equal(stored[name], expected[name]) for name in expected)


def test_a_repeated_block_is_acknowledged_but_not_stored_again() -> None:
    talk = Conversation()
    talk.hello()
    talk.send(0)
    assert only(talk.send(0)).next == 2
    assert talk.core.queued == 2
    assert talk.core.ledger()["duplicate"] == 2


def test_a_block_after_a_gap_is_not_stored_and_the_actor_resends_from_the_gap() -> None:
    talk = Conversation()
    talk.hello()
    answer = only(talk.send(2))
    assert (answer.next, answer.resend) == (0, True)
    assert talk.send(4) == []  # told once; the messages behind it show the same gap
    talk.now = 1.0
    assert only(talk.send(2)).resend
    assert talk.core.queued == 0


def test_a_block_that_overlaps_what_is_stored_breaks_the_protocol() -> None:
    talk = Conversation()
    talk.hello()
    talk.send(0)
    talk.send(1)
    assert talk.core.report()["rejected_by"]["sequence"] == 1
    assert talk.core.queued == 2


def test_a_new_incarnation_starts_at_zero_and_replaces_the_old_one() -> None:
    talk = Conversation()
    talk.hello(incarnation=1)
    talk.send(0)
    welcome, *_ = talk.hello(incarnation=2)
    assert welcome.next == 0
    refused = only(talk.send(2, incarnation=1))
    assert isinstance(refused, messages.Reject)
    assert refused.reason == "fenced"
    assert talk.core.queued == 2
    assert only(talk.send(0, incarnation=2)).next == 2


def test_an_old_incarnation_cannot_say_hello_again() -> None:
    talk = Conversation()
    talk.hello(incarnation=2)
    assert only(talk.hello(incarnation=1)).reason == "fenced"
    talk.hub(0, {5: (3, True)})
    assert only(talk.hello(actor=5, incarnation=2)).reason == "fenced"  # the hub has let a newer one in


def test_an_actor_without_hello_is_rejected() -> None:
    talk = Conversation()
    assert only(talk.send(0)).reason == "forgotten"
    assert talk.core.report()["rejected_by"]["unknown_session"] == 1


def test_hello_with_another_schema_is_rejected_with_the_difference() -> None:
    talk = Conversation()
    talk.hello()
    refused = only(talk.hello(actor=1, schema=RunSchema(SPACES, 16, ("hearts",))))
    assert (refused.reason, refused.detail) == ("schema", "core_state_size: the run has 0, this process has 16")


def test_the_credit_of_a_dead_actor_is_taken_back_and_goes_to_the_next_in_line() -> None:
    talk = Conversation(batch_rows=4, queue_batches=1.0)
    for actor in range(3):
        talk.hello(actor, rows=2)
    assert talk.session(2).credit == 0
    talk.hub(0, {0: (1, False), 1: (1, True), 2: (1, True)})
    granted = only(talk.answers())
    assert talk.session(0).credit == 0
    assert talk.session(2).credit == 2
    assert granted.credit == 2 * SCHEMA.row_bytes(2)


def test_an_actor_that_returns_gets_credit_again() -> None:
    talk = Conversation()
    talk.hello()
    talk.hub(0, {0: (1, False)})
    talk.answers()
    assert talk.session().credit == 0
    talk.hub(0, {0: (1, True)})
    talk.answers()
    assert talk.session().credit >= 2


def test_a_block_without_credit_waits_with_its_actor_until_there_is_room() -> None:
    talk = Conversation(batch_rows=2, queue_batches=1.0)
    talk.hello(0)
    talk.hello(1)
    # By hand: room for 2 + 2 - 1 = 3 rows, which is one block: actor 0 has the credit, actor 1 none.
    assert talk.session(1).credit == 0
    assert only(talk.send(0, actor=1)).next == 0
    talk.hub(0, {0: (1, False), 1: (1, True)})  # actor 0 dies and its credit comes free
    talk.answers()
    assert only(talk.send(0, actor=1)).next == 2


def broken(**arrays: Any) -> Any:
    content = block(2, truncate=((0, 1),), returns=(1.0,))
    for name, value in arrays.items():
        getattr(content, name)[...] = value
    return content


BAD_BLOCKS: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "non_finite": [
        (broken(rewards=np.nan), {}),
        (broken(observations=np.inf), {}),
        (broken(behaviour_logits=-np.inf), {}),
        (broken(behaviour_value=np.nan), {}),
        (broken(final_observations=np.nan), {}),
        (broken(episode_return=np.inf), {}),
        (broken(episode_statistics=np.inf), {}),
    ],
    "action_range": [(broken(actions=3), {}), (broken(actions=-1), {})],
    "reward_bound": [(broken(rewards=1.5e6), {}), (broken(rewards=-1.5e6), {})],
    "version_range": [(broken(), {"policy_version": 1}), (broken(), {"policy_version": -1})],
    "unroll_length": [(broken(), {"steps": 3}), (broken(), {"steps": 0})],
    "final_index": [
        (broken(final_trajectory=2), {}),
        (broken(final_trajectory=-1), {}),
        (broken(final_step=2), {}),
        (broken(final_step=-1), {}),
        (broken(), {"finals": 5}),
        (broken(), {"finals": -1}),
        (broken(), {"episodes": 2**62}),
    ],
    "payload_length": [(broken(), {"finals": 0}), (broken(), {"episodes": 0})],
    "schema": [(broken(), {"schema_id": "another"})],
}


@pytest.mark.parametrize(
    ("reason", "content", "header"),
    [(reason, content, header) for reason, cases in BAD_BLOCKS.items() for content, header in cases],
)
def test_a_bad_block_is_counted_with_its_reason_and_the_session_continues(
    reason: str, content: Any, header: dict[str, Any]
) -> None:
    talk = Conversation()
    talk.hello()
    assert only(talk.send(0, content, **header)).next == 2  # acknowledged, so that it is never sent again
    assert talk.core.report()["rejected_by"][reason] == 1
    assert talk.core.ledger()["dropped"]["rejected"] == 2
    assert talk.core.queued == 0
    assert only(talk.send(2)).next == 4
    assert talk.core.queued == 2
    assert talk.core.ledger()["lost"] == 0


def test_a_flag_that_is_neither_0_nor_1_is_rejected() -> None:
    talk = Conversation()
    talk.hello()
    content = block(2)
    payload = SCHEMA.trajectory.pack(content)
    SCHEMA.trajectory.views(payload, content.size)["terminated"].view(np.uint8)[0, 0] = 2
    data = messages.Data(0, 1, SCHEMA.identity, 0, 2, 2, 0, 0, 0, 0.0, 2, 0, {})
    assert only(talk.say(data, payload)).next == 2
    assert talk.core.report()["rejected_by"]["not_boolean"] == 1


def test_a_block_of_another_size_than_in_hello_is_rejected() -> None:
    talk = Conversation()
    talk.hello(rows=2)
    talk.send(0, block(3))
    assert talk.core.report()["rejected_by"]["rows"] == 1
    assert talk.core.queued == 0


def test_after_the_third_bad_message_an_actor_loses_its_credit_and_is_rejected() -> None:
    talk = Conversation()
    talk.hello()
    for number in range(MAX_STRIKES - 1):
        talk.send(2 * number, broken(rewards=np.nan))
    refused = only(talk.send(2 * (MAX_STRIKES - 1), broken(rewards=np.nan)))
    assert refused.reason == "strikes"
    assert talk.session().credit == 0
    assert only(talk.send(6)).reason == "strikes"
    welcome, *_ = talk.hello(incarnation=2)
    assert isinstance(welcome, messages.DataWelcome)  # its next incarnation begins anew
    assert talk.core.ledger()["lost"] == 0


def test_bye_is_answered_and_trajectories_that_are_not_stored_are_unsent() -> None:
    talk = Conversation()
    talk.hello()
    talk.send(0)
    goodbye = messages.DataBye(0, 1, produced=10, evicted=2)
    assert only(talk.say(goodbye)) == goodbye
    ledger = talk.core.ledger()
    # By hand: 10 produced, 2 dropped by the actor, 2 stored, so 6 were never sent.
    assert ledger["produced"] == 10
    assert ledger["dropped"]["evicted"] == 2
    assert ledger["queued"] == 2
    assert ledger["unsent_at_death"] == 6
    assert only(talk.say(goodbye)) == goodbye  # the answer was lost and it asks again


def test_unsent_trajectories_of_a_living_actor_are_in_flight_and_of_a_dead_one_unsent() -> None:
    talk = Conversation()
    talk.hello()
    talk.say(messages.DataHeartbeat(0, 1, produced=6, evicted=0))
    assert (talk.core.ledger()["in_flight"], talk.core.ledger()["unsent_at_death"]) == (6, 0)
    talk.hub(0, {0: (1, False)})
    assert (talk.core.ledger()["in_flight"], talk.core.ledger()["unsent_at_death"]) == (0, 6)
    talk.hello(incarnation=2)
    assert (talk.core.ledger()["in_flight"], talk.core.ledger()["unsent_at_death"]) == (0, 6)


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", to_json({"spaces": 3})])
def test_hello_without_a_schema_is_rejected_and_opens_no_session(payload: bytes) -> None:
    talk = Conversation()
    assert talk.say(messages.DataHello(0, 1, 2, "x", 0, 0, 0), payload) == []
    assert list(talk.core.sessions) == []
    assert sum(talk.core.report()["rejected_by"].values()) == 1


def test_blocks_that_are_too_long_for_one_message_are_rejected_with_advice() -> None:
    talk = Conversation()
    image = RunSchema(Spaces(ObservationSpace("image", (3, 1000, 1000), "uint8"), ActionSpace((3,))), 0, ())
    # By hand: a row of 3 observations of 3 MB has 9 MB, so 200 rows have 1.8 GB.
    refused = only(talk.hello(rows=200, schema=image))
    assert refused.reason == "block_size"
    assert refused.detail.endswith("lower actors.envs_per_actor or actors.unroll_length")
    assert list(talk.core.sessions) == []


def test_an_actor_with_no_rows_is_rejected() -> None:
    talk = Conversation()
    for rows in (0, -1, 2**40):
        talk.hello(rows=rows)
    assert talk.core.report()["rejected_by"]["header_fields"] == 3
    assert list(talk.core.sessions) == []
