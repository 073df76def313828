from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import zmq

from oatmill.errors import UserError
from protocol.channels.sockets import ServerSocket, reachable
from replay.addresses import bind_addresses, open_to_others, remove_sockets
from tests.ports import free_ports
from tests.replay.serving import ROOT, command, start


def private(folder: Path) -> Path:
    folder.chmod(0o700)
    return folder


def test_four_sockets_are_in_one_private_folder(tmp_path: Path) -> None:
    addresses = bind_addresses(f"ipc://{private(tmp_path)}", insecure=False)
    assert addresses == {name: f"ipc://{tmp_path}/{name}" for name in ("data", "batches", "control", "weights")}


def test_four_consecutive_ports_start_at_7300_by_default() -> None:
    assert bind_addresses("tcp://127.0.0.1", insecure=False) == {
        "data": "tcp://127.0.0.1:7300",
        "batches": "tcp://127.0.0.1:7301",
        "control": "tcp://127.0.0.1:7302",
        "weights": "tcp://127.0.0.1:7303",
    }
    assert bind_addresses("tcp://127.0.0.1:9000", insecure=False)["weights"] == "tcp://127.0.0.1:9003"
    assert bind_addresses("tcp://[::1]:9000", insecure=False)["data"] == "tcp://[::1]:9000"
    assert set(bind_addresses("tcp://127.0.0.1:0", insecure=False).values()) == {"tcp://127.0.0.1:0"}
    assert bind_addresses("tcp://localhost:9000", insecure=False)["data"] in {"tcp://127.0.0.1:9000", "tcp://[::1]:9000"}


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "192.0.2.7", "[::]"])
def test_an_address_that_other_machines_reach_needs_insecure(host: str) -> None:
    with pytest.raises(UserError, match="add --insecure if that network is your own"):
        bind_addresses(f"tcp://{host}:7300", insecure=False)
    assert bind_addresses(f"tcp://{host}:7300", insecure=True)["data"].endswith(":7300")


@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        ("nonsense", "takes ipc:///FOLDER or tcp://HOST"),
        ("ipc://", "takes ipc:///FOLDER or tcp://HOST"),
        ("udp://127.0.0.1", "takes ipc:///FOLDER or tcp://HOST"),
        ("tcp://127.0.0.1:x", "needs a port from 0 to 65532, got 'x'"),
        ("tcp://127.0.0.1:65533", "needs a port from 0 to 65532, got '65533'"),
        ("tcp://no.such.host.invalid:7300", "use an address of this machine"),
        ("ipc:///no/such/folder", "create it with: mkdir -m 700 /no/such/folder"),
    ],
)
def test_an_invalid_address_is_rejected_with_advice(listen: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        bind_addresses(listen, insecure=False)
    assert problem in str(caught.value)


def test_a_folder_that_others_can_enter_is_rejected(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(UserError, match="chmod 700"):
        bind_addresses(f"ipc://{tmp_path}", insecure=False)


def test_a_path_that_is_too_long_for_a_socket_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir(mode=0o700)
    with pytest.raises(UserError, match="a socket's path has at most 107 bytes"):
        bind_addresses(f"ipc://{folder}", insecure=False)


def test_a_socket_in_use_is_not_taken_over_and_a_leftover_one_is_removed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(private(tmp_path) / "control"))
        served.listen()
        with pytest.raises(UserError, match="another replay server listens"):
            bind_addresses(f"ipc://{tmp_path}", insecure=False)
    bind_addresses(f"ipc://{tmp_path}", insecure=False)  # its process has ended and its file is left
    assert not (tmp_path / "control").exists()


def test_removing_sockets_leaves_other_files_and_tcp_alone(tmp_path: Path) -> None:
    (tmp_path / "control").touch()
    (tmp_path / "config.yaml").touch()
    remove_sockets({"control": f"ipc://{tmp_path}/control", "data": f"ipc://{tmp_path}/data", "weights": "tcp://127.0.0.1:1"})
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_server_on_all_addresses_is_reached_at_the_one_that_was_given() -> None:
    assert reachable("tcp://0.0.0.0:7300", "tcp://replay.example:7302") == "tcp://replay.example:7300"
    assert reachable("tcp://[::]:7300", "tcp://[fd00::1]:7302") == "tcp://[fd00::1]:7300"
    assert reachable("tcp://10.0.0.1:7300", "tcp://replay.example:7302") == "tcp://10.0.0.1:7300"
    assert reachable("ipc:///x/data", "ipc:///x/control") == "ipc:///x/data"


def refused(folder: Path, listen: str, *more: str) -> str:
    """What a server that cannot begin says; its exit code must be 2."""
    done = subprocess.run(command(folder, listen, *more), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    return done.stderr


def test_a_server_that_cannot_start_says_why_in_one_line_and_exits_with_2(tmp_path: Path) -> None:
    first = free_ports(6)
    with socket.socket() as taken:
        port = first + 2
        taken.bind(("127.0.0.1", port))
        taken.listen()
        # The taken port is the first (ingest's) in one case and the third (the hub's) in the other.
        for base in (port, port - 2):
            said = refused(tmp_path, f"tcp://127.0.0.1:{base}")
            assert said.startswith(f"oatmill: error: cannot listen on tcp://127.0.0.1:{port}: Address already in use")
            assert said.count("\n") == 1
    assert refused(tmp_path, "tcp://0.0.0.0").startswith("oatmill: error: tcp://0.0.0.0 can be reached from other machines")
    (tmp_path / "config.yaml").write_text("env: {}\n")
    assert "lacks agent, actors, replay, trainer, metrics" in refused(tmp_path, "tcp://127.0.0.1:0")


def test_a_second_server_in_the_same_folder_exits_with_2_and_the_first_continues(tmp_path: Path) -> None:
    first = start(tmp_path, "ipc")
    try:
        assert "another replay server listens on" in refused(tmp_path, f"ipc://{tmp_path}")
        assert first.ask("status")["live"] == 0
    finally:
        first.process.terminate()
        first.process.communicate()


def test_an_ipc_socket_whose_folder_was_removed_can_be_reached_again_and_old_connections_stay(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir(mode=0o700)

    def heard(server: ServerSocket) -> list[bytes]:
        assert server.handle.poll(5000)
        return [bytes(frames[0]) for _, _, frames in server.receive(10)]

    with zmq.Context() as context:
        server, old, new = ServerSocket(context), context.socket(zmq.DEALER), context.socket(zmq.DEALER)
        try:
            address = server.bind(f"ipc://{folder}/data")
            old.connect(address)
            old.send(b"before")
            assert heard(server) == [b"before"]
            assert server.restore_file() is None  # it is there
            shutil.rmtree(folder)
            assert server.restore_file() == folder / "data"
            assert folder.stat().st_mode & 0o777 == 0o700
            new.connect(address)
            new.send(b"new")
            assert heard(server) == [b"new"]
            old.send(b"after")
            assert heard(server) == [b"after"]
        finally:
            for handle in (server, old, new):
                handle.close(linger=0) if isinstance(handle, zmq.Socket) else handle.close()


def test_a_socket_is_not_created_again_in_a_folder_that_others_can_enter(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir(mode=0o700)
    with zmq.Context() as context:
        server = ServerSocket(context)
        server.bind(f"ipc://{folder}/data")
        shutil.rmtree(folder)
        folder.mkdir()
        folder.chmod(0o777)  # somebody else was faster
        assert server.restore_file() is None
        assert list(folder.iterdir()) == []
        server.close()


def test_a_tcp_socket_has_no_file() -> None:
    with zmq.Context() as context:
        server = ServerSocket(context)
        server.bind("tcp://127.0.0.1:0")
        assert server.restore_file() is None
        server.close()


@pytest.mark.parametrize(
    ("listen", "keyed", "told"),
    [
        ("ipc", False, False),
        ("ipc:///run/oatmill", False, False),
        ("tcp://127.0.0.1", False, True),
        ("tcp://0.0.0.0:7300", False, True),
        ("tcp://127.0.0.1", True, False),
    ],
)
def test_a_run_that_others_can_join_and_stop_says_so(listen: str, keyed: bool, told: bool) -> None:
    note = open_to_others(listen, keyed=keyed)
    assert (note is not None) is told
    assert note is None or "keygen" in note
