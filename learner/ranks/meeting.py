"""How the ranks of a learner find each other and form a process group, and which network interface they use.

Ranks of one host find each other through a private file and communicate over the loopback interface (`learner.ranks.spawn`).
Ranks of several hosts connect to rank 0 at MASTER_ADDR and MASTER_PORT. They use no keys, so their network must be trusted.
They listen only on the address through which they reach each other.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch.distributed as dist

from learner.device import choose_device
from learner.ranks.reduce import AllRanks, OneRank, Ranks
from learner.ranks.spawn import STORE
from learner.settings import TrainerSettings
from oatmill.errors import RunError, UserError, one_line

log = logging.getLogger("oatmill.learner")

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 29500
RETRY_S = 0.5


@dataclass(frozen=True)
class Place:
    """The rank of this process, and where it finds the other ranks.

    Attributes:
        rank: from 0.
        world_size: the number of ranks.
        local_rank: the rank's number on this host, from 0.
        store: the file through which the ranks of one host find each other; empty for ranks of several hosts.
        host: MASTER_ADDR, the name or address of rank 0's host.
        port: MASTER_PORT.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    store: str = ""
    host: str = ""
    port: int = DEFAULT_PORT

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Place:
        """Read RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; without them this is the only rank.

        Raises:
            UserError: if one of them is missing or not a number.
        """
        rank, world_size = _number(environ, "RANK", 0), _number(environ, "WORLD_SIZE", 1)
        if rank >= world_size:
            raise UserError(f"RANK must be below WORLD_SIZE={world_size}, got {rank}; ranks are numbered from 0")
        store, host = environ.get(STORE, ""), environ.get("MASTER_ADDR", "")
        if world_size > 1 and not store and not host:
            raise UserError(f"WORLD_SIZE={world_size} needs MASTER_ADDR, the name or address of rank 0's host, got nothing")
        return cls(
            rank, world_size, _number(environ, "LOCAL_RANK", 0), store, host, _number(environ, "MASTER_PORT", DEFAULT_PORT)
        )

    def meet(self, timeout_s: float) -> dist.Store:
        """Wait for the other ranks, and choose the network interface that gloo and NCCL use.

        Raises:
            RunError: if the other ranks do not connect in time.
            UserError: if rank 0 cannot listen on its address and port.
        """
        if self.store:
            use_interface_of(LOOPBACK)
            return dist.FileStore(self.store, self.world_size)
        deadline = time.monotonic() + timeout_s
        family, address = self._resolve(deadline, timeout_s)
        listener = listen(family, address, self.port) if self.rank == 0 else None
        use_interface_of(address if listener else own_address(family, address, self.port))
        try:
            return dist.TCPStore(
                address,
                self.port,
                self.world_size,
                is_master=listener is not None,
                timeout=timedelta(seconds=max(1.0, deadline - time.monotonic())),
                master_listen_fd=None if listener is None else listener.detach(),
            )
        except dist.DistError as error:
            raise self._alone(timeout_s, address, one_line(error)) from None

    def _resolve(self, deadline: float, timeout_s: float) -> tuple[socket.AddressFamily, str]:
        """The address of rank 0. Its name may be unknown at first, because the hosts of a cluster start one after another."""
        while True:
            try:
                family, *_, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            except OSError as error:
                if time.monotonic() > deadline:
                    raise self._alone(timeout_s, "no address", error.strerror or "unknown name") from None
                time.sleep(RETRY_S)
            else:
                return family, str(address[0])

    def _alone(self, timeout_s: float, address: str, why: str) -> RunError:
        return RunError(
            f"rank {self.rank} of {self.world_size} did not meet the other ranks at MASTER_ADDR={self.host} ({address}), "
            f"MASTER_PORT={self.port} within {timeout_s:g} s: {why}; check that all ranks run and that every host can "
            "reach this address, or raise trainer.distributed_timeout"
        )


@contextmanager
def joined(settings: TrainerSettings) -> Iterator[Ranks]:
    """Join the process group that the environment variables describe, and leave it at the end.

    The process must end by `oatmill.children.leaving.leave_at_once`, which says why.

    Args:
        settings: the learner's settings; has the device and the timeout.

    Raises:
        UserError: if the environment variables are invalid or the device is not available.
        RunError: if the other ranks do not join in time.
    """
    place = Place.of(os.environ)
    device = choose_device(settings.device, place.local_rank)
    if place.world_size == 1:
        yield Ranks(place.rank, place.world_size, device, OneRank())
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=place.meet(settings.distributed_timeout),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=settings.distributed_timeout),
    )
    try:
        yield Ranks(place.rank, place.world_size, device, AllRanks())
    finally:
        dist.destroy_process_group()


def listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    """Listen as rank 0 on an address; on all addresses of this host if the address is that of a forwarder.

    Raises:
        UserError: if the port is taken.
    """
    for host in (address, ""):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRNOTAVAIL:
                taken = f"rank 0 cannot listen on {address}:{port} ({error.strerror}); choose another MASTER_PORT"
                raise UserError(taken) from None
            log.warning("%s is not an address of this host: rank 0 listens on all of its addresses", address)
        else:
            listener.listen()
            return listener
    raise AssertionError("every host has at least one address")


def own_address(family: socket.AddressFamily, address: str, port: int) -> str:
    """The own address that this host uses to reach another one; empty if there is no route. Nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def use_interface_of(address: str) -> None:
    """Make gloo and NCCL use the network interface that has an address, unless the user has chosen an interface.

    By default, gloo uses the address that the host's own name resolves to, and NCCL chooses an interface itself.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f"{name} must be a whole number of 0 or more, got {text!r}")
    return int(text)
