"""A client that is not accepted gets one line with the reason within two seconds, unless it may still be accepted."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import zmq

from oatmill.errors import JoinRefusedError, PeerLostError
from protocol.channels import handshake
from protocol.channels.control_client import ControlClient
from protocol.channels.sockets import ClientSocket, ServerSocket
from protocol.channels.weights import WeightsReceiver
from protocol.peers.control import Role
from protocol.security.keys import ClientKeys, ServerKeys, add_key, client_keys, make_keys, new_keys, revoke_key, server_keys
from protocol.security.zap import ZapHandler
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[3]
SAID = {
    "no key": "requires a key and this process has none; set --keys",
    "unknown key": "does not trust this process's key; give --keys",
    "another server's key": "has another key than server.pub of this process's keys; give --keys",
    "server without keys": "has no keys and this process has some; start the server with --keys",
}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def keys(tmp_path: Path) -> ServerKeys:
    """A server's, with all roles' beside them in `tmp_path / "keys"`."""
    make_keys(tmp_path / "keys")
    found = server_keys(tmp_path / "keys")
    assert found is not None
    return found


def listen(stack: ExitStack, keys: ServerKeys | None, address: str = "tcp://127.0.0.1:0") -> tuple[ServerSocket, str]:
    """A server that lets in whom it trusts, and says nothing."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stack.callback(context.term)
    zap = None
    if keys is not None:
        zap = ZapHandler(context, keys)
        stack.callback(zap.close)
    server = ServerSocket(context, zap=zap)
    stack.callback(server.close)
    return server, server.bind(address)


def answer(address: str, keys: ClientKeys | None, *, role: Role = "operator", within_s: float = 60.0) -> str:
    """What a client is told that asks for the status."""
    client = ControlClient(address, role=role, description={}, keys=keys)
    began = time.monotonic()
    try:
        with pytest.raises((JoinRefusedError, PeerLostError)) as error:
            client.request("status", {}, timeout_s=within_s)
    finally:
        client.close()
    assert time.monotonic() - began < within_s + 0.5
    assert "\n" not in str(error.value)
    return f"{type(error.value).__name__}: {error.value}"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
@pytest.mark.parametrize("case", SAID)
def test_a_client_with_wrong_or_missing_keys_gets_a_message(
    stack: ExitStack, keys: ServerKeys, tmp_path: Path, case: str, scheme: str
) -> None:
    shown = {"no key": None, "unknown key": new_keys(keys.public), "another server's key": new_keys(zmq.curve_keypair()[0])}
    asked = f"ipc://{tmp_path}/socket" if scheme == "ipc" else "tcp://127.0.0.1:0"
    _, address = listen(stack, None if case == "server without keys" else keys, asked)
    assert answer(address, shown.get(case, keys.as_client())).startswith(f"NotLetInError: the server at {address} {SAID[case]}")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that says why sooner, so that a test is quicker."""
    monkeypatch.setattr(handshake, "PATIENCE_S", 0.3)


def test_an_actor_with_a_wrong_key_gets_a_message_within_two_seconds(stack: ExitStack, keys: ServerKeys) -> None:
    _, address = listen(stack, keys)
    began = time.monotonic()
    client = ControlClient(address, role="actor", description={}, keys=None)
    stack.callback(client.close)
    with pytest.raises(JoinRefusedError, match="requires a key and this process has none"):
        client.join(20.0)
    assert handshake.PATIENCE_S <= time.monotonic() - began < 3.5  # a test's machine is a busy one


@pytest.mark.usefixtures("impatient")
def test_a_weights_receiver_with_a_wrong_key_gets_a_message(stack: ExitStack, keys: ServerKeys) -> None:
    _, address = listen(stack, keys)
    receiver = WeightsReceiver(address, layout=(("w", (1,)),), keys=None)
    stack.callback(receiver.close)
    with pytest.raises(JoinRefusedError, match="requires a key and this process has none"):
        receiver.wait(20.0)


@pytest.mark.usefixtures("impatient")
def test_a_server_of_another_kind_is_named(stack: ExitStack) -> None:
    def greet(connection: socket.socket) -> None:
        if b"GET" in connection.recv(64):
            connection.sendall(b"HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\n")

    said = answer(serve(stack, greet), None)
    assert said.startswith("NotLetInError: the server at tcp://127.0.0.1:")
    assert "is not an oatmill server, it answers 'HTTP/1.0 404 Not Found'; give the control address" in said


def test_a_port_where_nobody_listens_is_named_after_the_timeout() -> None:
    port = free_ports(1)
    said = answer(f"tcp://127.0.0.1:{port}", None, within_s=0.8)
    assert said.startswith("PeerLostError: ")
    assert f"nothing accepts connections at tcp://127.0.0.1:{port}" in said


def serve(stack: ExitStack, greet: Callable[[socket.socket], object]) -> str:
    """A server of another kind, which handles a connection, in a thread of its own, and keeps it or not."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()
    listener.settimeout(0.05)

    def accept() -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                stack.callback(connection.close)
                threading.Thread(target=greet, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    stack.callback(listener.close)
    stack.callback(thread.join)
    stack.callback(ended.set)
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("greet", [socket.socket.close, lambda _: None], ids=["a forwarder without a server", "stopped"])
def test_a_client_waits_for_a_server_that_may_still_start(
    stack: ExitStack, keys: ServerKeys, greet: Callable[[socket.socket], object]
) -> None:
    said = answer(serve(stack, greet), keys.as_client(), within_s=2.0)  # a look at the port takes up to a second
    assert said.startswith("PeerLostError: ")
    assert "nothing accepts" not in said


def test_a_key_that_becomes_trusted_in_time_is_accepted(stack: ExitStack, keys: ServerKeys, tmp_path: Path) -> None:
    # libzmq itself would never try again after the first refusal.
    add_key(tmp_path / "keys", "actor-late")
    late = client_keys(tmp_path / "keys" / "actor-late", "actor")
    revoke_key(tmp_path / "keys", "actor-late")
    _, address = listen(stack, keys)
    client = ClientSocket(address, keys=late)
    stack.callback(client.close)
    until(client, lambda: "does not trust" in client.handshake.failure)
    assert late is not None
    (keys.trusted / "actor-late.pub").write_bytes(late.public)
    until(client, lambda: client.handshake.up)
    assert client.handshake.failure == ""


def until(client: ClientSocket, done: Callable[[], bool], within_s: float = 60.0) -> None:
    """Watch a client's handshake until a condition is true."""
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, client.handshake.failure
        client.handshake.look(time.monotonic())
        client.wait(0.05)


@pytest.mark.usefixtures("impatient")
def test_a_client_that_was_accepted_survives_rejected_handshakes(stack: ExitStack, keys: ServerKeys, tmp_path: Path) -> None:
    good = client_keys(tmp_path / "keys", "actor")
    client: ClientSocket
    with ExitStack() as first:
        _, address = listen(first, keys)
        client = ClientSocket(address, keys=good)
        stack.callback(client.close)
        until(client, lambda: client.handshake.up)
    revoke_key(tmp_path / "keys", "actor")
    with ExitStack() as second:  # the server is back before the key is
        listen(second, keys, address)
        until(client, lambda: "does not trust" in client.handshake.failure)
        time.sleep(0.4)
        assert client.handshake.trouble(time.monotonic()) == ""
        assert good is not None
        (keys.trusted / "actor.pub").write_bytes(good.public)
        until(client, lambda: client.handshake.failure == "")


def test_the_first_bytes_of_a_server_show_its_kind(stack: ExitStack, keys: ServerKeys) -> None:
    _, address = listen(stack, keys)
    _, plain = listen(stack, None)
    found = [handshake.first_bytes(one)[handshake.MECHANISM].rstrip(b"\0") for one in (address, plain)]
    assert found == [b"CURVE", b"NULL"]
    assert handshake.first_bytes(f"tcp://127.0.0.1:{free_ports(1)}") == b""
    assert handshake.first_bytes("ipc:///nowhere/at/all") == b""


@pytest.mark.parametrize(
    ("mechanism", "keyed", "said"),
    [
        (b"CURVE", True, "has another key than server.pub"),
        (b"CURVE", False, "requires a key and this process has none"),
        (b"NULL", True, "has no keys and this process has some"),
        (b"NULL", False, ""),
        (b"", True, ""),
    ],
)
def test_a_silently_closed_connection_is_explained_by_the_servers_mechanism(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, mechanism: bytes, keyed: bool, said: str
) -> None:
    # Which of the two sides notices another mechanism first, and closes, is chance.
    greeting = handshake.GREETING + mechanism.ljust(20, b"\0") if mechanism else b""
    monkeypatch.setattr(handshake, "first_bytes", lambda _address: greeting)
    client = ClientSocket("tcp://127.0.0.1:1", keys=new_keys(zmq.curve_keypair()[0]) if keyed else None)
    stack.callback(client.close)
    for _ in range(handshake.CLOSED_TIMES):
        client.handshake._take(zmq.EVENT_CONNECTED, 0, 1.0)
        client.handshake._take(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, errno.EPIPE, 1.1)
    assert client.handshake.trouble(1.2) == ""
    found = client.handshake.trouble(1.2 + handshake.PATIENCE_S)
    assert said in found
    assert bool(said) == bool(found)


def test_a_replay_server_starts_without_asyncio() -> None:
    # pyzmq's reader of a socket's events would load it, which takes a tenth of the start.
    code = "import sys, replay.hub.process, replay.ingest.__main__; sys.exit('asyncio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
