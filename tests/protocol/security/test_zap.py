"""A replay server with keys, and clients with and without permission; and one without keys, whose actors are protected, too."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from oatmill.errors import JoinRefusedError, PeerLostError, RunError
from protocol.channels import BatchClient, ControlClient, TrajectorySender, WeightsPublisher, WeightsReceiver
from protocol.channels.sockets import ServerSocket, use_keys
from protocol.data.weights import layout_of
from protocol.security.keys import (
    ServerKeys,
    add_key,
    client_keys,
    make_keys,
    new_keys,
    read_key,
    revoke_key,
    server_keys,
    trusted_files,
)
from protocol.security.users import TrustedKeys
from protocol.security.zap import ZapHandler
from protocol.wire import messages
from protocol.wire.codec import decode, encode, to_json
from replay.hub.self_test import LET_IN, REFUSED, SILENT, check_keys, try_connection
from tests.replay.blocks import SCHEMA
from tests.replay.serving import Actor, Server, serving, total, weights

SOCKETS = ("data", "batches", "control", "weights")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@contextmanager
def honest_run(tmp_path: Path, keys: Path | None) -> Iterator[tuple[Server, Callable[[], None]]]:
    """A server with a correct learner and actor, and a function that makes them do one more batch."""
    with serving(tmp_path, "tcp", keys) as server:
        trainer, first = server.learner(), server.actor(rows=8)
        trainer.publish(0)

        def work() -> None:
            assert first.sender.wait_ready(60)
            first.offer()
            first.control.heartbeat({}, force=True)
            assert first.sender.drain(60)
            batch = trainer.take().batch
            assert set(batch.observations[:, 0, 0]) == {first.mark}
            trainer.batches.consumed(batch.batch_id, 0)

        work()
        yield server, work
        work()  # nobody has harmed them
        assert not first.control.state.fenced
        ledger = server.ask("status")["ledger"]
        assert ledger["produced"] == total(ledger)
        assert ledger["unsent_at_death"] == ledger["dropped"]["rejected"] == ledger["lost"] == 0


def rejected(server: Server, reason: str, at_least: int = 1) -> int:
    """Return how often a reason was counted, once it is often enough."""
    deadline = time.monotonic() + 60
    while (count := server.ask("status")["rejected"].get(reason, 0)) < at_least:
        assert time.monotonic() < deadline, f"{reason}: {count}"
        time.sleep(0.02)
    return int(count)


def refusal(address: str, message: Any, payload: bytes, kinds: tuple[type[Any], ...], **how: Any) -> str | None:
    """Return the reason of the REJECT for one message; None without an answer within a second."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.setsockopt(zmq.LINGER, 0)
        use_keys(peer, how.get("keys"))
        peer.connect(address)
        peer.send_multipart(encode(message, payload))
        if not peer.poll(1000):
            return None
        answer = decode(peer.recv_multipart()[0], kinds)
        return str(answer.reason) if isinstance(answer, messages.Reject) else type(answer).__name__


# ------------------------------------------------------------------------------------------------ who may connect


def test_with_keys_unknown_clients_and_clients_without_keys_are_rejected_everywhere(tmp_path: Path, keys: Path) -> None:
    with honest_run(tmp_path, keys) as (server, work):
        public = read_key(keys / "server" / "server.pub")
        assert server.ask("status")["rejected"].get("unknown_key", 0) == 0  # the start-up test is not counted
        for name in SOCKETS:
            address = server.endpoint[name]
            assert try_connection(address, new_keys(public)) == REFUSED
            assert try_connection(address, None) == REFUSED
            assert try_connection(address, client_keys(keys, "actor")) == LET_IN
            work()
        assert rejected(server, "unknown_key", 4) >= 4
        page = server.page("metrics")
        assert "oatmill_auth_restarts_total 0.0" in page
        for stranger in (new_keys(public), None):
            with (
                closing(ControlClient(server.control, role="operator", description={}, keys=stranger)) as operator,
                pytest.raises(PeerLostError, match="did not answer stop"),
            ):
                operator.request("stop", {}, timeout_s=0.5)
        with (
            closing(ControlClient(server.control, role="actor", description={}, keys=None)) as plain,
            pytest.raises(PeerLostError, match="is the replay server up there, with these --keys"),
        ):
            plain.join(0.5)


def test_a_client_rejects_a_server_with_another_key(tmp_path: Path, keys: Path) -> None:
    with serving(tmp_path, "tcp", keys) as server:
        own = client_keys(keys, "actor")
        assert own is not None
        assert try_connection(server.control, replace(own, server=new_keys(own.server).public), 1.0) != LET_IN


# ------------------------------------------------------------------------------------------ who may speak as whom


def test_a_key_cannot_be_used_for_another_role(tmp_path: Path, keys: Path) -> None:
    with honest_run(tmp_path, keys) as (server, work):
        actor, learner = client_keys(keys, "actor"), client_keys(keys, "learner")
        # A learner may stop the run: it knows when the budget is spent.
        for wrong, kind in ((actor, "stop"), (actor, "scale"), (learner, "scale")):
            expected = r"\(role\): expected the key of operator( or learner)?, got (actor|learner)"
            with (
                closing(ControlClient(server.control, role="operator", description={}, keys=wrong)) as operator,
                pytest.raises(JoinRefusedError, match=expected),
            ):
                operator.request(kind, {"actors": 0})  # type: ignore[arg-type]
        _, welcome = server.join_actor(rows=8)
        with closing(BatchClient(server.endpoint["batches"], welcome=welcome, rank=0, world=1, batch_size_total=8)) as batches:
            batches.request(0)
            with pytest.raises(JoinRefusedError, match=r"ingest refused this process \(role\): expected the key of learner"):
                batches.poll(10)
        with closing(WeightsPublisher(welcome.endpoints["weights"], welcome=welcome)) as publisher:
            publisher.push(weights(99))
            with pytest.raises(JoinRefusedError, match=r"the hub refused this process \(role\): expected the key of learner"):
                publisher.flush(60)
        posing = replace(welcome, keys=learner)
        with (
            closing(
                TrajectorySender(server.endpoint["data"], welcome=posing, schema=SCHEMA.trajectory, rows=8, when_full="block")
            ) as sender,
            pytest.raises(JoinRefusedError, match=r"ingest refused this process \(role\): expected the key of actor"),
        ):
            sender.wait_ready(60)
        status = server.ask("status")
        assert (status["stop"], status["desired_actors"], status["policy_version"]) == (False, 2, 0)
        rejected(server, "role", at_least=7)  # some were said again
        work()


def test_a_revoked_key_is_rejected_at_once_in_old_and_new_connections(tmp_path: Path, keys: Path) -> None:
    add_key(keys, "actor-east")
    east = client_keys(keys / "actor-east", "actor")
    with honest_run(tmp_path, keys) as (server, work):
        victim: Actor = server.actor(rows=8, keys=east)
        assert victim.sender.wait_ready(60)
        revoke_key(keys, "actor-east")
        time.sleep(0.6)  # the folder is looked at every 0.25 s
        victim.offer()
        with pytest.raises(JoinRefusedError, match=r"ingest refused this process \(revoked\): this key is no longer trusted"):
            victim.sender.drain(60)
        deadline = time.monotonic() + 60
        while not victim.control.state.fenced and time.monotonic() < deadline:
            victim.control.heartbeat({}, force=True)
            time.sleep(0.01)
        assert victim.control.state.fenced
        assert victim.control.refusal == ("revoked", "this key is no longer trusted")
        assert rejected(server, "revoked", 2) >= 2
        assert try_connection(server.control, east) == REFUSED
        work()


def test_a_key_that_is_added_while_the_server_runs_is_accepted(tmp_path: Path, keys: Path) -> None:
    with honest_run(tmp_path, keys) as (server, work):
        add_key(keys, "actor-west")
        time.sleep(0.6)
        assert server.actor(rows=8, keys=client_keys(keys / "actor-west", "actor")).welcome.actor_id == 1
        work()


@pytest.mark.parametrize("keyed", [False, True])
def test_another_process_can_neither_replace_nor_end_nor_discredit_an_actor(tmp_path: Path, keyed: bool) -> None:
    keys = tmp_path / "keys" if keyed else None
    if keys is not None:
        make_keys(keys)
    with honest_run(tmp_path, keys) as (server, work):
        own = client_keys(keys, "actor")
        data, control = server.endpoint["data"], server.control
        schema = to_json(SCHEMA.to_dict())
        for guess in ("", "0" * 32):
            for message, payload in (
                (messages.DataHello(0, 1, 8, SCHEMA.identity, 0, 0, 0, guess), schema),
                (messages.Data(0, 1, SCHEMA.identity, 0, 8, 2, 0, 0, 0, 0.0, 8, 0, {}, guess), b"x" * 10),
                (messages.DataHeartbeat(0, 1, 10**6, 0, guess), b""),
                (messages.DataBye(0, 1, 10**6, 0, guess), b""),
            ):
                for _ in range(4):  # three strikes would end it
                    assert refusal(data, message, payload, messages.DATA_TO_ACTOR, keys=own) == "identity"
            work()
        # An incarnation that the hub has not given is left without an answer, and fences nobody.
        hello = messages.DataHello(0, 2, 8, SCHEMA.identity, 0, 0, 0, "0" * 32)
        assert refusal(data, hello, schema, messages.DATA_TO_ACTOR, keys=own) is None
        assert rejected(server, "identity", 32) == 32
        assert rejected(server, "unknown_session") == 1
        with pytest.raises(JoinRefusedError, match=r"\(identity\): actor 0 is part of the run and active"):
            server.actor(actor_id=0, rows=8)
        for said in (messages.Heartbeat("0" * 32), messages.Bye("0" * 32)):
            assert refusal(control, said, b"{}", messages.CONTROL_TO_CLIENT, keys=own) in {"forgotten", "Bye"}
        work()


@pytest.mark.parametrize("keyed", [False, True])
def test_only_the_learner_gets_batches_and_publishes_weights(tmp_path: Path, keyed: bool) -> None:
    keys = tmp_path / "keys" if keyed else None
    if keys is not None:
        make_keys(keys)
    with honest_run(tmp_path, keys) as (server, work):
        own = client_keys(keys, "learner")
        batches, weights_url = server.endpoint["batches"], server.endpoint["weights"]
        hello = messages.BatchHello(0, 1, 8, "t", 0, -1, "0" * 32)
        assert refusal(batches, hello, b"", messages.BATCH_TO_RANK, keys=own) == "identity"
        new = weights(7)
        push = messages.WeightsPush(7, new.dtype, new.digest.hex(), 0.0, "0" * 32)
        assert refusal(weights_url, push, bytes(new.buffer), messages.WEIGHTS_TO_CLIENT, keys=own) == "identity"
        control = server.learner_control()
        with pytest.raises(JoinRefusedError, match=r"\(identity\): the learner/0 is part of the run and active"):
            control.join(60)
        assert server.ask("status")["policy_version"] == 0
        work()


# ---------------------------------------------------------------------------------- the zap, and the start-up test


@pytest.fixture
def own(keys: Path) -> ServerKeys:
    found = server_keys(keys)
    assert found is not None
    return found


@contextmanager
def secured(own: ServerKeys) -> Iterator[tuple[ZapHandler, str]]:
    with zmq.Context() as context:
        zap = ZapHandler(context, own)
        server = ServerSocket(context, zap=zap)
        try:
            yield zap, server.bind("tcp://127.0.0.1:0")
        finally:
            server.close()
            zap.close()


def test_a_handler_that_fails_is_restarted_and_counted(own: ServerKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    with secured(own) as (zap, address):
        for failure in (ZeroDivisionError, MemoryError, zmq.ZMQError):
            with monkeypatch.context() as patch:
                patch.setattr(zap, "_answer", lambda _request, failure=failure: (_ for _ in ()).throw(failure()))
                assert try_connection(address, own.as_client(), 0.5) == SILENT
            assert try_connection(address, own.as_client()) == LET_IN
        assert zap.restarts >= 3
        assert try_connection(address, new_keys(own.public)) == REFUSED


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_handler_whose_thread_ended_rejects_everybody_until_it_is_restarted(
    own: ServerKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    with secured(own) as (zap, address):
        with monkeypatch.context() as patch:
            patch.setattr(zap, "_answer", lambda _request: (_ for _ in ()).throw(SystemExit()))
            assert try_connection(address, own.as_client(), 0.5) == SILENT
            zap._thread.join(60)
        for keys in (own.as_client(), new_keys(own.public)):
            assert try_connection(address, keys, 0.5) != LET_IN
        zap.look()
        assert try_connection(address, own.as_client()) == LET_IN
        assert zap.restarts == 1


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ([], b"400"),
        ([b"1.0"], b"400"),
        ([b"1.0", b"1", b"oatmill", b"a", b"r", b"NULL"], b"400"),
        ([b"1.0", b"1", b"oatmill", b"a", b"r", b"PLAIN", b"u", b"p"], b"400"),
        ([b"1.0", b"1", b"other", b"a", b"r", b"CURVE", b"k" * 32], b"400"),
        ([b"2.0", b"1", b"oatmill", b"a", b"r", b"CURVE", b"k" * 32], b"400"),
        ([b"1.0", b"1", b"oatmill", b"a", b"r", b"CURVE", b"k" * 31], b"400"),
    ],
)
def test_a_request_without_a_curve_key_is_denied(own: ServerKeys, request_: list[bytes], status: bytes) -> None:
    with zmq.Context() as context, closing(ZapHandler(context, own)) as zap:
        assert zap._answer(request_)[2] == status
        assert zap.denied == 1


def test_a_server_without_a_handler_accepts_nobody(own: ServerKeys) -> None:
    with zmq.Context() as context:
        zap = ZapHandler(context, own)
        zap.close()
        server = ServerSocket(context, zap=zap)
        address = server.bind("tcp://127.0.0.1:0")
        for keys in (own.as_client(), new_keys(own.public), None):
            assert try_connection(address, keys, 0.5) != LET_IN
        server.close()


def test_the_start_up_test_detects_open_and_closed_sockets(own: ServerKeys) -> None:
    stranger = new_keys(own.public)
    with secured(own) as (zap, address), zmq.Context() as context:
        check_keys({"data": address}, own=own.as_client(), stranger=stranger)
        plain = ServerSocket(context)
        careless = context.socket(zmq.ROUTER)  # CURVE without a handler: any key will do
        careless.setsockopt(zmq.CURVE_SERVER, 1)
        careless.setsockopt(zmq.CURVE_SECRETKEY, own.secret)
        careless.bind("tcp://127.0.0.1:0")
        try:
            with pytest.raises(RunError, match=r"on weights at .* a client with its own key was refused, expected let in"):
                check_keys({"weights": plain.bind("tcp://127.0.0.1:0")}, own=own.as_client(), stranger=stranger)
            url = careless.getsockopt_string(zmq.LAST_ENDPOINT)
            with pytest.raises(RunError, match="a client with an unknown key was let in, expected refused"):
                check_keys({"weights": url}, own=own.as_client(), stranger=stranger)
        finally:
            plain.close()
            careless.close(0)
        assert zap.denied == 1


def test_without_the_folder_of_trusted_keys_nobody_is_trusted_and_a_bad_file_is_skipped(own: ServerKeys, keys: Path) -> None:
    with secured(own) as (zap, address):
        actor, learner = client_keys(keys, "actor"), client_keys(keys, "learner")
        (own.trusted / "actor.pub").write_text("not a key\n")
        (own.trusted / "stranger.pub").write_bytes(new_keys(own.public).public)
        zap.trusted.refresh()
        assert (try_connection(address, actor), try_connection(address, learner)) == (REFUSED, LET_IN)
        own.trusted.rename(own.trusted.with_name("elsewhere"))
        zap.trusted.refresh()
        assert try_connection(address, learner) == REFUSED
        own.trusted.with_name("elsewhere").rename(own.trusted)
        zap.trusted.refresh()
        assert try_connection(address, learner) == LET_IN


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO])
@pytest.mark.parametrize("where", ["iterdir", "read_bytes"])
def test_keys_stay_trusted_while_their_folder_cannot_be_read_temporarily(
    own: ServerKeys, error: int, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trusted = TrustedKeys(own)
    actor = read_key(own.trusted / "actor.pub").decode()
    (own.trusted / "learner.pub").unlink()  # something has changed, so that the files are read again
    with monkeypatch.context() as patch:
        patch.setattr(Path, where, lambda _path: raise_(OSError(error, os.strerror(error))))
        trusted.refresh()
        trusted.refresh()
    assert trusted.user(actor).name == "actor"
    assert sum("the keys trusted before stay trusted" in line for line in caplog.messages) == 1
    trusted.refresh()
    assert trusted.trusts(actor)
    assert {user.name for user in trusted._users.values()} == {"server", "actor", "operator"}


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EACCES, errno.ENOTDIR])
def test_if_the_folder_is_missing_or_unreadable_nobody_is_trusted(
    own: ServerKeys, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = TrustedKeys(own)
    actor = read_key(own.trusted / "actor.pub").decode()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda _path: raise_(OSError(error, os.strerror(error))))
        trusted.refresh()
    assert not trusted.trusts(actor)
    trusted.refresh()
    assert trusted.trusts(actor)


def test_a_key_file_that_vanishes_while_the_folder_is_read_does_not_affect_others(
    own: ServerKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = TrustedKeys(own)
    actor = read_key(own.trusted / "actor.pub").decode()
    files = [*trusted_files(own.trusted), own.trusted / "actor-gone.pub"]
    monkeypatch.setattr("protocol.security.users.trusted_files", lambda _folder: files)
    (own.trusted / "actor.pub").touch()
    trusted.refresh()
    assert trusted.trusts(actor)


def raise_(error: Exception) -> Any:
    raise error


def test_weights_reach_an_actor_with_keys(tmp_path: Path, keys: Path) -> None:
    layout = layout_of({"w": np.zeros(10, np.float32)})
    with serving(tmp_path, "ipc", keys) as server:
        server.learner().publish(3)
        _, welcome = server.join_actor()
        receiver: WeightsReceiver = server.receiver(welcome, layout)
        assert receiver.wait(60).version == 3
