"""A network in user space: hosts are namespaces, and this process carries every packet between them, late, or not at all.

Each host has one TUN device, on which this process reads what it sends and writes what reaches it. A packet goes up its
sender's line and down its receiver's, and each direction of a line has its own delay, jitter, loss, rate and cut. A rate has
a queue of limited length before it, as a real link has, so what is sent faster is dropped. The seed decides about loss and
jitter.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import selectors
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from subprocess import run

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
TUN = "/dev/net/tun"
SUBNET = "198.18.0"
"""Of the range that is set aside for tests of networks."""
MTU = 1500
DESTINATION = slice(16, 20)
"""Where an IPv4 header has it."""
QUEUE_S = 0.5
"""What waits for a line of limited rate longer than this is dropped."""
PACKETS_A_TURN = 64
PROTOCOL, TCP = 9, 6
Flow = tuple[bytes, ...]
"""Both ends of a TCP connection, each an address and a port."""


@dataclass
class Direction:
    """One direction of one host's line.

    Attributes:
        delay_s: every packet takes this long.
        jitter_s: and up to this much more or less.
        loss: the share of packets that vanish.
        bytes_s: what it carries in a second; 0 for no limit.
        cut: whether nothing comes through.
        carried: bytes that came through.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    bytes_s: float = 0.0
    cut: bool = False
    carried: int = 0
    _free_at: float = 0.0

    def pass_at(self, nbytes: int, now: float, random: Random) -> float | None:
        """When a packet comes out at the other end; None if it does not."""
        if self.cut or (self.loss and random.random() < self.loss):
            return None
        at = now
        if self.bytes_s:
            if self._free_at - now > QUEUE_S:
                return None
            at = self._free_at = max(now, self._free_at) + nbytes / self.bytes_s
        self.carried += nbytes
        return at + max(0.0, self.delay_s + random.uniform(-self.jitter_s, self.jitter_s))


@dataclass
class Host:
    """A namespace on the network.

    Attributes:
        name: its namespace.
        address: its IPv4 address.
        up: from it to the network.
        down: from the network to it.
    """

    name: str
    address: str
    device: int
    up: Direction = field(default_factory=Direction)
    down: Direction = field(default_factory=Direction)


class Network:
    """Carries packets between hosts until it is closed.

    Args:
        seed: decides which packets are lost and late.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = Random(seed)
        self._hosts: dict[bytes, Host] = {}
        self._late: list[tuple[float, int, int, bytes]] = []
        self._order = 0
        self._selector = selectors.DefaultSelector()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="network", daemon=True)
        self.packets: Counter[str] = Counter()
        self._flows: set[Flow] = set()  # that were carried
        self._forgotten: set[Flow] = set()

    def attach(self, namespace: str) -> Host:
        """Give a namespace a device and an address. All hosts come before `start`."""
        address = f"{SUBNET}.{len(self._hosts) + 1}"
        host = Host(namespace, address, open_device(namespace, address))
        self._hosts[bytes(map(int, address.split(".")))] = host
        self._selector.register(host.device, selectors.EVENT_READ, host)
        return host

    def forget(self) -> None:
        """Drop what belongs to connections that are there now, in silence, as a firewall does that was started anew."""
        self._forgotten |= self._flows

    def start(self) -> None:
        """Begin to carry."""
        self._thread.start()

    def _carry(self) -> None:
        while not self._closing.is_set():
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _, _, device, packet = heapq.heappop(self._late)
                self._write(device, packet)
            wait_s = min(0.1, max(0.0, self._late[0][0] - now)) if self._late else 0.1
            for key, _ in self._selector.select(wait_s):
                self._read(key.data)

    def _read(self, source: Host) -> None:
        for _ in range(PACKETS_A_TURN):
            try:
                packet = os.read(source.device, 2 * MTU)
            except OSError:  # no more for now, or the namespace is gone
                return
            target = self._hosts.get(packet[DESTINATION])
            if target is not None:
                self._forward(source, target, packet)

    def _forward(self, source: Host, target: Host, packet: bytes) -> None:
        now, flow = time.monotonic(), flow_of(packet)
        if flow in self._forgotten:
            return
        self._flows |= {flow} if flow else set()
        at = source.up.pass_at(len(packet), now, self._random)
        at = None if at is None else target.down.pass_at(len(packet), at, self._random)
        self.packets["dropped" if at is None else "carried"] += 1
        if at is None:
            return
        if at <= now:
            self._write(target.device, packet)
            return
        self._order += 1
        heapq.heappush(self._late, (at, self._order, target.device, packet))

    def _write(self, device: int, packet: bytes) -> None:
        try:
            os.write(device, packet)
        except OSError:  # its queue is full, as a real one may be
            self.packets["dropped"] += 1

    def close(self) -> None:
        """Stop carrying; the devices vanish."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        for host in self._hosts.values():
            os.close(host.device)
        self._selector.close()


def open_device(namespace: str, address: str) -> int:
    """A TUN device that belongs to this process and stands in a namespace."""
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", b"oat%d", IFF_TUN | IFF_NO_PI)
    name = fcntl.ioctl(device, TUNSETIFF, request)[:16].rstrip(b"\0").decode()
    for command in (
        f"ip link set {name} netns {namespace}",
        f"ip -n {namespace} link set {name} mtu {MTU} txqueuelen 1000",
        f"ip -n {namespace} addr add {address}/24 dev {name}",
        f"ip -n {namespace} link set lo up",
        f"ip -n {namespace} link set {name} up",
    ):
        run(command.split(), check=True)
    return device


def flow_of(packet: bytes) -> Flow:
    """The connection that a packet belongs to, in either direction; empty if it is not TCP."""
    if packet[PROTOCOL] != TCP:
        return ()
    ports = 4 * (packet[0] & 0x0F)
    ends = (packet[12:16] + packet[ports : ports + 2], packet[16:20] + packet[ports + 2 : ports + 4])
    return tuple(sorted(ends))


def cut(*directions: Direction) -> Callable[[], None]:
    """Cut some directions; what is returned heals them."""
    for direction in directions:
        direction.cut = True

    def heal() -> None:
        for direction in directions:
            direction.cut = False

    return heal
