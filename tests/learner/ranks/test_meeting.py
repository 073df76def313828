"""Where ranks find each other: what the environment must say, where rank 0 listens, and how long a rank waits alone."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

from learner.ranks.meeting import Place, listen, own_address
from learner.ranks.spawn import STORE
from oatmill.errors import RunError, UserError
from tests.ports import free_ports

OTHER_LOOPBACK = "127.0.0.2"


@pytest.fixture(autouse=True)
def no_interface_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def listeners(port: int) -> set[str]:
    found = psutil.Process().net_connections(kind="inet")
    return {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == port}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK must be a whole number of 0 or more, got 'one'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK must be below WORLD_SIZE=2, got 2"),
        ({"RANK": "1"}, "RANK must be below WORLD_SIZE=1, got 1"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "WORLD_SIZE=2 needs MASTER_ADDR, the name or address of rank 0's host, got nothing"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "-1"}, "MASTER_PORT must be a whole number of 0 or more"),
    ],
)
def test_invalid_rank_variables_raise_an_error_of_one_line(environ: Mapping[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Place.of(environ)


def test_a_process_without_these_variables_is_the_only_rank() -> None:
    assert Place.of({}) == Place(rank=0, world_size=1)


def test_ranks_of_one_host_need_no_address_and_talk_over_the_loopback(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    place = Place.of({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", STORE: store})
    assert (place.rank, place.world_size, place.local_rank, place.store) == (1, 2, 1, store)
    before = len(psutil.Process().net_connections(kind="inet"))
    assert isinstance(place.meet(1), dist.FileStore)
    assert len(psutil.Process().net_connections(kind="inet")) == before
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == (loopback(), f"={loopback()}")


def loopback() -> str:
    """The name of the interface."""
    return next(name for name, found in psutil.net_if_addrs().items() if any(one.address == "127.0.0.1" for one in found))


def test_rank_0_listens_on_the_address_that_it_was_given_and_on_no_other() -> None:
    port = free_ports(1)
    places = [Place(rank, 2, host=OTHER_LOOPBACK, port=port) for rank in range(2)]
    stores: list[dist.Store] = []
    first = threading.Thread(target=lambda: stores.append(places[0].meet(20)))
    first.start()
    second = places[1].meet(20)
    first.join()
    second.set("word", "heard")
    assert stores[0].get("word") == b"heard"
    assert listeners(port) == {OTHER_LOOPBACK}


def test_gloo_and_nccl_use_the_interface_that_leads_to_rank_0_unless_the_user_has_chosen_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "mine")
    port = free_ports(1)
    Place(0, 1, host="127.0.0.1", port=port).meet(20)
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == (loopback(), "mine")
    assert own_address(socket.AF_INET, "127.0.0.1", port) == "127.0.0.1"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_whose_others_do_not_come_gives_up_in_time_with_one_line(rank: int) -> None:
    place = Place(rank, 2, host="127.0.0.1", port=free_ports(1))
    began = time.monotonic()
    with pytest.raises(RunError, match=rf"rank {rank} of 2 did not meet the other ranks at MASTER_ADDR=127\.0\.0\.1") as error:
        place.meet(2.0)
    assert time.monotonic() - began < 10
    assert "\n" not in str(error.value)


def test_a_name_that_does_not_resolve_is_waited_for_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(RunError, match=r"MASTER_ADDR=nowhere \(no address\).* within 1 s: Name or service not known"):
        Place(1, 2, host="nowhere").meet(1.0)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"rank 0 cannot listen on 127\.0\.0\.1:{port} \(.*\); choose another MASTER_PORT"):
            Place(0, 2, host="127.0.0.1", port=port).meet(5)


def test_behind_a_forwarder_rank_0_listens_on_all_addresses() -> None:
    # 198.18.0.0/15 is for tests of networks and is nobody's address.
    with listen(socket.AF_INET, "198.18.7.7", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
