from __future__ import annotations

from typing import Any

from protocol.wire import messages
from tests.replay.blocks import block
from tests.replay.conversation import Conversation, batches_in


def filled(rows: int, **settings: Any) -> Conversation:
    """Ingest with this many rows queued, numbered from 0."""
    talk = Conversation(**settings)
    talk.hello(rows=2)
    for first in range(0, rows, 2):
        talk.send(first)
    return talk


def rows_in(answers: list[Any]) -> list[int]:
    return [row for _, rows in batches_in(answers) for row in rows]


def test_a_batch_has_the_oldest_trajectories_in_order_and_the_fleets_statistics() -> None:
    talk = filled(6)
    talk.learn()
    status, welcome, (batch, rows) = talk.get()
    assert isinstance(status, messages.FleetStatus)
    assert isinstance(welcome, messages.BatchWelcome)
    assert rows == [0, 1, 2, 3]
    assert (batch.request, batch.trajectories, batch.steps, batch.finals) == (1, 4, 2, 0)


def test_a_request_waits_with_a_pending_answer_while_there_is_too_little_data() -> None:
    talk = filled(2)
    talk.learn()
    assert talk.get() == []
    assert talk.get(again=True) == [messages.BatchPending(1)]
    talk.send(2)
    assert rows_in(talk.told()) == [0, 1, 2, 3]


def test_a_request_that_is_repeated_gets_the_same_batch_again() -> None:
    talk = filled(8)
    talk.learn()
    first = batches_in(talk.get())
    assert batches_in(talk.get(again=True)) == first
    assert talk.core.ledger()["in_flight"] == 4


def test_a_batch_is_held_until_it_is_consumed_and_only_then_counted_as_trained() -> None:
    talk = filled(4)
    talk.learn()
    ((batch, _),) = batches_in(talk.get())
    assert (talk.core.ledger()["in_flight"], talk.core.ledger()["trained"]) == (4, 0)
    talk.consumed(batch.batch_id)
    assert (talk.core.ledger()["in_flight"], talk.core.ledger()["trained"]) == (0, 4)
    talk.consumed(batch.batch_id)  # said twice, counted once
    assert talk.core.ledger()["trained"] == 4
    assert talk.core.fleet_summary()["env_steps_trained"] == 8


def test_the_next_request_makes_up_for_a_lost_consumed_message() -> None:
    talk = filled(8)
    talk.learn()
    ((batch, _),) = batches_in(talk.get())
    talk.get(consumed=batch.batch_id)
    assert talk.core.ledger()["trained"] == 4


def test_of_a_request_for_another_server_only_the_consumed_batches_count() -> None:
    talk = filled(12)
    talk.learn()
    ((first, _),) = batches_in(talk.get())
    ((second, _),) = batches_in(talk.get())
    late = messages.Get(0, "t", 9, 0, first.batch_id, -1, 0, server=7)
    assert talk.tell(late) == [messages.BatchPending(9, 0)]
    assert (talk.core.ledger()["trained"], talk.core.ledger()["in_flight"]) == (4, 4), f"batch {second.batch_id} is still held"


def test_a_batch_that_had_not_arrived_at_the_next_request_is_handed_out_again() -> None:
    talk = filled(12)
    talk.learn()
    assert rows_in(talk.get()) == [0, 1, 2, 3]
    assert rows_in(talk.tell(messages.Get(0, "t", 2, 0, -1, -1, 0))) == [0, 1, 2, 3]
    assert talk.core.ledger()["in_flight"] == 4


def test_batches_that_a_dead_learner_had_not_consumed_are_handed_out_first() -> None:
    talk = filled(12)
    talk.learn(token="a")
    assert rows_in(talk.get(token="a")) == [0, 1, 2, 3]
    assert rows_in(talk.get(token="a")) == [4, 5, 6, 7]
    talk.learn(token="b")
    assert talk.core.ledger()["queued"] == 12
    assert rows_in(talk.get(token="b")) == [0, 1, 2, 3]
    assert rows_in(talk.get(token="b")) == [4, 5, 6, 7]
    assert rows_in(talk.get(token="b")) == [8, 9, 10, 11]


def test_bye_is_answered_and_returns_batches_that_were_not_consumed() -> None:
    talk = filled(8)
    talk.learn()
    ((batch, _),) = batches_in(talk.get())
    talk.get()
    talk.consumed(batch.batch_id)
    assert talk.tell(messages.Bye("t")) == [messages.Bye("t")]
    ledger = talk.core.ledger()
    assert (ledger["trained"], ledger["queued"], ledger["in_flight"], ledger["lost"]) == (4, 4, 0, 0)


def test_a_replaced_learner_is_rejected_and_cannot_return() -> None:
    talk = filled(8)
    talk.learn(token="a")
    talk.learn(token="b")
    (refused,) = talk.get(token="a")
    assert isinstance(refused, messages.Reject)
    assert refused.reason == "fenced"
    (refused,) = talk.learn(token="a")
    assert refused.reason == "fenced"
    assert rows_in(talk.get(token="b")) == [0, 1, 2, 3]


def test_each_rank_gets_its_share_of_the_same_cut() -> None:
    talk = filled(8)
    talk.learn(0, world=2, token="r0")
    assert talk.get(0, token="r0") == []  # rank 1 has not joined: a batch is for all or for none
    assert rows_in(talk.learn(1, world=2, token="r1")) == [0, 1]
    assert rows_in(talk.get(1, token="r1")) == [2, 3]
    assert rows_in(talk.get(1, token="r1")) == [6, 7]
    assert rows_in(talk.get(0, token="r0")) == [4, 5]


def test_when_a_rank_restarts_parts_that_wait_for_other_ranks_return_too() -> None:
    talk = filled(4)
    talk.learn(0, world=2, token="a0")
    talk.learn(1, world=2, token="a1")
    assert rows_in(talk.get(0, token="a0")) == [0, 1]
    talk.learn(0, world=2, token="b0")  # rows 0 and 1 return, and so do 2 and 3 that wait for rank 1
    talk.learn(1, world=2, token="b1")
    assert rows_in(talk.get(1, token="b1")) == [2, 3]
    assert rows_in(talk.get(0, token="b0")) == [0, 1]
    assert talk.core.ledger()["lost"] == 0


def test_a_learner_with_another_number_of_ranks_starts_new_sessions() -> None:
    talk = filled(4)
    talk.learn(0, world=2, token="a0")
    talk.learn(1, world=2, token="a1")
    talk.get(0, token="a0")
    talk.learn(0, world=1, token="b0")
    assert rows_in(talk.get(0, token="b0")) == [0, 1, 2, 3]


def test_a_batch_size_that_differs_or_does_not_divide_is_rejected() -> None:
    talk = filled(4)
    (refused,) = talk.tell(messages.BatchHello(0, 1, 8, "t", 0, -1))
    assert refused.reason == "batch_size"
    assert refused.detail.startswith("the run's batch has 4 trajectories; this learner asks for 8 over 1 ranks")
    (refused,) = talk.tell(messages.BatchHello(0, 3, 4, "t", 0, -1))
    assert refused.reason == "batch_size"


def test_cutting_in_advance_gives_no_credit_before_the_batch_is_handed_out() -> None:
    talk = Conversation(batch_rows=4, queue_batches=1.0)
    talk.hello(rows=2)
    talk.learn()
    talk.send(0)
    talk.send(2)
    # By hand: room for 4 + 2 - 1 = 5 rows. Four are queued, and cut by now, so one more block of two does not fit.
    assert talk.core._batches.waiting_rows == 4
    assert talk.session().credit == 0
    assert rows_in(talk.get()) == [0, 1, 2, 3]
    assert [answer.credit > 0 for answer in talk.answers()] == [True]
    assert talk.session().credit == 2


def test_stale_trajectories_are_dropped_when_a_batch_is_cut_and_counted() -> None:
    talk = Conversation(max_policy_lag=1)
    talk.hello(rows=2)
    for first in (0, 2, 4):
        talk.send(first, block(2, first=first, version=0))
    talk.hub(5)
    for first in (6, 8):
        talk.send(first, block(2, first=first, version=5))
    talk.learn()
    # By hand: versions below 5 - 1 are stale: rows 0 to 5. Ten rows wait, a batch takes 4, so all six may go.
    assert rows_in(talk.get()) == [6, 7, 8, 9]
    assert talk.core.ledger()["dropped"]["stale"] == 6
    assert talk.core.ledger()["lost"] == 0


def test_stale_trajectories_are_trained_on_when_there_are_no_others() -> None:
    talk = Conversation(max_policy_lag=1)
    talk.hello(rows=2)
    talk.send(0)
    talk.send(2)
    talk.hub(100)
    talk.learn()
    assert rows_in(talk.get()) == [0, 1, 2, 3]
    assert talk.core.ledger()["dropped"]["stale"] == 0


def test_the_policy_lag_of_handed_out_trajectories_is_counted_in_versions() -> None:
    talk = filled(8)
    talk.hub(3)
    talk.learn()
    talk.get()
    assert talk.core.fleet_summary()["policy_lag"] == {"p50": 3, "p99": 3}


def test_a_message_of_the_learner_announces_a_new_version_at_once() -> None:
    talk = filled(4, queue_batches=1.0)
    talk.learn()
    talk.get(version=7)
    assert [answer.version for answer in talk.answers()] == [7]  # with the credit that the batch has freed


def test_training_after_the_checkpoint_is_rolled_back_when_the_learner_resumes_from_it() -> None:
    # Three batches of 4 rows give versions 1, 2 and 3; the checkpoint has version 1.
    talk = filled(16)
    talk.learn()
    for version in (1, 2, 3):
        ((batch, _),) = batches_in(talk.get(version=version - 1))
        talk.consumed(batch.batch_id, version=version)
    assert talk.core.ledger()["trained"] == 12
    talk.requests.clear()
    talk.learn(token="u", resumed_from=1)
    ledger = talk.core.ledger()
    assert (ledger["trained"], ledger["dropped"]["rolled_back"], ledger["lost"]) == (4, 8, 0)
    assert talk.core.fleet_summary()["env_steps_trained"] == 8, "2 steps of each row that still counts"
    talk.learn(token="u", resumed_from=1)  # its HELLO comes again with every question
    assert talk.core.ledger()["trained"] == 4
    ((batch, rows),) = batches_in(talk.get(token="u", version=3))
    assert rows == [12, 13, 14, 15], "what was rolled back does not come again"
    talk.consumed(batch.batch_id, token="u", version=5)
    assert talk.core.ledger()["trained"] == 8


def test_a_learner_that_dies_before_its_first_checkpoint_rolls_everything_back() -> None:
    talk = filled(4)
    talk.learn()
    ((batch, _),) = batches_in(talk.get())
    talk.consumed(batch.batch_id, version=1)
    talk.requests.clear()
    talk.learn(token="u")
    ledger = talk.core.ledger()
    assert (ledger["trained"], ledger["dropped"]["rolled_back"]) == (0, 4)


def test_a_late_hello_of_a_replaced_process_ends_no_session() -> None:
    # Two learners died and one lives; the HELLO of the second arrives last.
    talk = filled(8)
    talk.learn(token="t", incarnation=0)
    talk.learn(token="v", incarnation=2)
    (refused,) = talk.learn(token="u", incarnation=1)
    assert isinstance(refused, messages.Reject)
    assert refused.reason == "fenced"
    ((_, rows),) = batches_in(talk.get(token="v"))
    assert rows == [0, 1, 2, 3]


def test_the_memory_of_waiting_parts_is_counted() -> None:
    talk = filled(8)
    before = talk.core.fleet_summary()["queue"]
    talk.learn()
    talk.get()  # four are handed out, and four are cut for the next question
    after = talk.core.fleet_summary()["queue"]
    assert (before["trajectories"], after["trajectories"]) == (8, 4)
    assert 0 < after["bytes"] < before["bytes"]
