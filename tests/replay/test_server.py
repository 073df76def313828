from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq

from oatmill.errors import JoinRefusedError, PeerLostError
from oatmill.settings.flat import joining_config
from protocol.data.spaces import ActionSpace, ObservationSpace, Spaces
from protocol.data.weights import layout_of
from protocol.security.keys import make_keys
from protocol.wire.deadlines import DEAD_AFTER_S
from tests.replay.serving import CONFIG, ROOT, serving, start, successor, total, weights

LAYOUT = layout_of({"w": np.zeros(10, np.float32)})
transports = pytest.mark.parametrize("transport", ["ipc", "tcp"])


@transports
def test_the_learner_gets_exactly_what_actors_send(tmp_path: Path, transport: str) -> None:
    with serving(tmp_path, transport) as server:
        trainer, first, second = server.learner(), server.actor(), server.actor(compression="lz4")
        trainer.publish(0)
        for sender in (first, second):
            for _ in range(2):
                assert sender.sender.wait_ready(60)
                sender.offer(truncate=((1, 0),), returns=(10.0,))
            assert sender.sender.drain(60)
        delivery = trainer.take()
        batch = delivery.batch
        # By hand: blocks of 2 rows, two from each actor, in the order in which they were sent.
        assert batch.observations[:, 0].tolist() == [[mark, row] for mark in (1.0, 1001.0) for row in range(4)]
        assert batch.policy_version.tolist() == [0] * 8
        assert batch.fresh.all()
        assert batch.final_trajectory.tolist() == [1, 3, 5, 7]
        assert batch.final_observations[:, 1].tolist() == [1001.0] * 4
        batch.rewards[0, 0] = 7.0  # the learner owns what it was given
        assert delivery.fleet["episode_return"] == {"mean": 10.0, "std": 0.0, "n": 4}
        assert delivery.fleet["statistics"] == {"hearts": 5.0}
        assert delivery.fleet["env_steps"] == 16
        trainer.batches.consumed(batch.batch_id, 1)
        for channel in (first, second, trainer):
            channel.close()
        ledger = server.ask("status")["ledger"]
        assert ledger["produced"] == ledger["trained"] == 8
        assert total(ledger) == 8


@transports
def test_weights_reach_every_actor_and_only_the_newest(tmp_path: Path, transport: str) -> None:
    with serving(tmp_path, transport) as server:
        trainer = server.learner()
        client, welcome = server.join_actor()
        receiver = server.receiver(welcome, LAYOUT)
        with pytest.raises(PeerLostError, match=r"no weights came within 0\.05 s; has the learner started"):
            receiver.wait(0.05)
        trainer.publish(3)
        trainer.publish(4)
        taken = receiver.wait(60)
        assert taken.unpack(LAYOUT)["w"].tolist() == [float(taken.version)] * 10
        client.heartbeat({}, force=True)
        deadline = time.monotonic() + 60
        while client.state.policy_version < 4 and time.monotonic() < deadline:
            client.heartbeat({}, force=True)
            time.sleep(0.01)
        newer = receiver.poll(4, timeout_s=60)
        assert 4 in {taken.version, -1 if newer is None else newer.version}
        assert receiver.poll(4) is None
        trainer.control.close(goodbye=False)
        assert successor(lambda: server.learner_control().join(60)).policy_version == 4


@pytest.mark.parametrize("keyed", [False, True])  # encrypted, a chunk of the greatest length is longer on the wire
def test_weights_larger_than_a_window_arrive_whole(tmp_path: Path, keyed: bool) -> None:
    numbers = 1_000_003  # 4 MB: four windows and a bit
    keys = tmp_path / "keys" if keyed else None
    if keys is not None:
        make_keys(keys)
    with serving(tmp_path, "tcp", keys) as server:
        trainer = server.learner()
        _, welcome = server.join_actor()
        receiver = server.receiver(welcome, layout_of({"w": np.zeros(numbers, np.float32)}))
        trainer.publisher.push(weights(9, numbers))
        assert trainer.publisher.flush(60)
        assert receiver.wait(60).buffer == weights(9, numbers).buffer


def test_a_pull_continues_between_two_polls(tmp_path: Path) -> None:
    numbers = 1_000_003
    with serving(tmp_path) as server:
        trainer = server.learner()
        _, welcome = server.join_actor()
        receiver = server.receiver(welcome, layout_of({"w": np.zeros(numbers, np.float32)}))
        trainer.publisher.push(weights(9, numbers))
        assert trainer.publisher.flush(60)
        deadline, taken = time.monotonic() + 10, None
        while taken is None:
            assert time.monotonic() < deadline, "pumping has not brought it"
            for _ in range(20):
                receiver.pump(9)
                time.sleep(0.005)
            taken = receiver.poll(9, timeout_s=0.0)  # a poll alone would ask for one window each time
        assert taken.version == 9


def test_the_batch_of_a_dead_learner_goes_to_its_successor(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        first, sender = server.learner(), server.actor(rows=8)
        first.publish(0)
        sender.offer()
        assert sender.sender.drain(60)
        before = first.take().batch.observations.copy()
        first.control.close(goodbye=False)  # as after kill -9
        second = successor(server.learner)
        assert server.ask("status")["ledger"]["in_flight"] == 8
        after = second.take().batch
        np.testing.assert_array_equal(after.observations, before)
        second.batches.consumed(after.batch_id, 1)
        for channel in (second, sender, first):
            channel.close()
        ledger = server.ask("status")["ledger"]
        assert (ledger["trained"], ledger["lost"]) == (8, 0)


@transports
def test_an_actor_that_is_killed_again_and_again_loses_and_repeats_nothing(tmp_path: Path, transport: str) -> None:
    with serving(tmp_path, transport) as server:
        trainer = server.learner()
        trainer.publish(0)
        command = [sys.executable, "-m", "tests.replay.actor_process", server.control]
        processes = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(2)]
        trained: dict[float, list[int]] = {}
        for round_ in range(4):
            taken = 0
            while taken < 20 or len(trained) < 2 + round_:
                taken += 1
                batch = trainer.take(20).batch
                for mark, row in batch.observations[:, 0].tolist():
                    trained.setdefault(mark, []).append(int(row))
                trainer.batches.consumed(batch.batch_id, 0)
            victim = round_ % 2
            processes[victim].kill()
            processes[victim].wait()
            processes[victim] = subprocess.Popen([*command, str(victim)], cwd=ROOT)
        server.ask("stop")
        for process in processes:
            assert process.wait(60) == 0
        trainer.close()
        status = server.ask("status")
        for rows in trained.values():  # each incarnation's trajectories, once, in order, without gaps
            assert rows == list(range(len(rows)))
        ledger = status["ledger"]
        assert ledger["trained"] == sum(map(len, trained.values()))
        assert total(ledger) == ledger["produced"]
        assert ledger["lost"] == 0
        assert status["restarts"] == 4


def test_a_full_queue_makes_drop_oldest_drop_and_count(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        trainer, sender = server.learner(), server.actor(when_full="drop_oldest")
        trainer.publish(0)
        assert sender.sender.wait_ready(60)
        for _ in range(60):
            sender.offer()
            time.sleep(0.002)
        # By hand: the queue takes 2 batches of 8 and a block of 2 less 1, 17 rows, so 16; 16 blocks of 2 wait; 120 - 16 - 32.
        deadline = time.monotonic() + 60
        while sender.sender.unacknowledged > 32 and time.monotonic() < deadline:
            sender.sender.pump()
        assert sender.sender.evicted == 72
        sender.close()
        trainer.close()
        ledger = server.ask("status")["ledger"]
        assert ledger["dropped"]["evicted"] == 72
        assert ledger["unsent_at_death"] == 32
        assert total(ledger) == ledger["produced"] == 120


def test_a_process_with_other_settings_or_spaces_is_rejected_by_name(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        config = joining_config(CONFIG) | {"env.id": "Other-v0"}
        with pytest.raises(JoinRefusedError, match=r"\(config\): env\.id: the run has 'Toy-v0', this process has 'Other-v0'"):
            server.join_actor(config=config)
        server.join_actor()
        spaces = Spaces(ObservationSpace("vector", (3,), "float32"), ActionSpace((3,)))
        with pytest.raises(
            JoinRefusedError, match=r"\(spaces\): observation\.shape: the run has \[2\], this process has \[3\]"
        ):
            server.join_actor(spaces=spaces.to_dict())
        with pytest.raises(JoinRefusedError, match=r"\(spaces\): episode statistics"):
            server.join_actor(episode_statistics=["coins"])


def test_a_learner_can_wait_for_the_first_actors_spaces(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        client = server.learner_control()
        assert client.join(60).spaces is None
        with pytest.raises(PeerLostError, match=r"no actor has joined the run within 0\.3 s"):
            client.join(0.3, wait_for_spaces=True)
        server.join_actor()
        welcome = client.join(10, wait_for_spaces=True)
        assert welcome.spaces is not None
        assert welcome.spaces.action.sizes == (3,)
        assert welcome.episode_statistics == ("hearts",)


def test_a_successor_fences_the_actor_before_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        first = server.actor(actor_id=5)
        assert first.welcome.incarnation == 1
        with pytest.raises(JoinRefusedError, match=r"\(identity\): actor 5 is part of the run and active"):
            server.actor(actor_id=5)
        first.control.close(goodbye=False)  # half of it is dead
        second = successor(lambda: server.actor(actor_id=5))
        assert (second.welcome.actor_id, second.welcome.incarnation) == (5, 2)
        assert second.sender.wait_ready(60)
        first.offer()
        with pytest.raises(JoinRefusedError, match="fenced"):
            first.sender.drain(60)
        assert not second.control.state.fenced


def test_an_operator_scales_and_stops_the_run(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        client, _ = server.join_actor()
        assert server.ask("scale", actors=7) == {"desired_actors": 7}
        assert server.ask("stop") == {"stop": True}
        deadline = time.monotonic() + 60
        while not client.state.stop and time.monotonic() < deadline:
            client.heartbeat({})
            time.sleep(0.01)
        assert client.state.stop
        assert client.state.desired_actors == 7
        with pytest.raises(JoinRefusedError, match="expected 'actors' from 0 to 10000, got -1"):
            server.ask("scale", actors=-1)


def test_garbage_on_every_socket_is_counted_and_the_run_continues(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        trainer, sender = server.learner(), server.actor(rows=8)
        trainer.publish(0)
        for name in ("control", "data", "batches", "weights"):
            raw: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
            raw.linger = 1000
            raw.connect(f"ipc://{tmp_path / name}")
            for frames in ([b"x"], [b"x", b"y"], [b"x" * 9000, b"y"], [b"x", b"y", b"z"], [b"", b""]):
                raw.send_multipart(frames)
            raw.close()
        assert sender.sender.wait_ready(60)
        sender.offer()
        assert trainer.take().batch.size == 8
        deadline = time.monotonic() + 60
        rejected: dict[str, int] = {}
        while sum(rejected.values()) < 20 and time.monotonic() < deadline:
            rejected = server.ask("status")["rejected"]
        # By hand: on each of 4 sockets, 2 messages have too few or too many frames, 1 too long a header, 2 no msgpack map.
        assert {reason: n for reason, n in rejected.items() if n} == {"frames": 8, "header_size": 4, "header_msgpack": 8}
        written = [json.loads(path.read_text()) for path in (tmp_path / "quarantine").iterdir()]
        assert {(entry["socket"], entry["reason"]) for entry in written} >= {("data", "frames"), ("control", "header_size")}


def test_the_http_pages_show_the_run(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.page("readyz") == server.page("healthz") == "ok\n"
        assert server.page("actors") == "[]"
        sender = server.actor(actor_id=4)
        sender.control.heartbeat({"env_steps": 12}, force=True)
        deadline = time.monotonic() + 60
        while '"env_steps": 12' not in server.page("actors") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert '"actor_id": 4, "incarnation": 1, "alive": true' in server.page("actors")
        while "oatmill_actors_live 1.0" not in server.page("metrics") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "oatmill_actors_live 1.0" in server.page("metrics")


def test_sigterm_ends_both_processes_with_0_and_removes_every_socket(tmp_path: Path) -> None:
    server = start(tmp_path, "ipc")
    ingest = server.ingest
    assert server.sockets() == ["batches", "control", "data", "weights"]
    for one in (ingest, psutil.Process(server.process.pid)):
        assert one.memory_info().rss < 100e6  # no torch in there
    server.process.terminate()
    assert server.process.wait(60) == 0
    assert not ingest.is_running()
    assert server.sockets() == []
    server.process.communicate()


def test_when_ingest_is_killed_the_hub_ends_with_1_at_once(tmp_path: Path) -> None:
    server = start(tmp_path, "ipc")
    server.ingest.kill()
    started = time.monotonic()
    assert server.process.wait(60) == 1
    assert time.monotonic() - started < 3
    assert server.sockets() == []
    assert "ingest has ended" in server.process.communicate()[1]


def test_when_the_hub_is_killed_ingest_ends_at_once_and_cleans_up(tmp_path: Path) -> None:
    server = start(tmp_path, "ipc")
    ingest = server.ingest
    server.process.kill()
    server.process.communicate()
    psutil.wait_procs([ingest], timeout=3)
    assert not ingest.is_running()
    assert server.sockets() == []


def test_both_processes_killed_by_one_signal_to_their_group_end_with_0(tmp_path: Path) -> None:
    server = start(tmp_path, "ipc")
    for one in (server.ingest, psutil.Process(server.process.pid)):
        os.kill(one.pid, signal.SIGTERM)
    assert server.process.wait(60) == 0
    server.process.communicate()


def test_sockets_that_a_cleaner_removes_are_created_again_and_actors_can_join(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for name in server.sockets():
            (tmp_path / name).unlink()
        deadline = time.monotonic() + 60
        while len(server.sockets()) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.actor()
        assert server.ask("status")["live"] == 1


def test_a_hub_and_an_actor_that_were_paused_together_do_not_miss_each_other(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        control, _ = server.join_actor()
        control.heartbeat({}, force=True)
        assert server.ask("status")["live"] == 1
        family = [server.process.pid, server.ingest.pid]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(DEAD_AFTER_S + 1.0)  # nor does the actor, which is this process, say anything
        for pid in reversed(family):
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.3)  # the hub is awake before the actor
        assert (server.ask("status")["live"], server.ask("status")["expired"]) == (1, 0)
