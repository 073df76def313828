"""Good messages that are changed at random, and raw bytes for a socket that expects ZeroMQ."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from random import Random
from typing import Any

import msgpack

from tests.replay.bad_messages import (
    ACTOR,
    CONTENT,
    DATA,
    HELLO,
    LEARNER,
    NUMBERS,
    SCHEMA,
    SOCKETS,
    Frames,
    as_json,
    content,
    header_of,
    pack,
)

VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 127, 128, 255, 2**16, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**64 - 1, -(2**63)),
    *(
        0.0,
        -0.0,
        1e308,
        -1e308,
        5e-324,
        float("nan"),
        float("inf"),
        None,
        True,
        False,
        "",
        "x",
        "t",
        "a",
        "x" * 256,
        [],
        [1],
        {},
    ),
    *({"a": 1.0}, b""),
)
"""What a field may be changed to."""
assert CONTENT.size.finals == 1


def good_messages(name: str) -> list[Frames]:
    """Return messages of every kind that a socket accepts, with valid payloads."""
    payloads = (b"", as_json(SCHEMA.to_dict()), as_json(ACTOR), as_json(LEARNER), NUMBERS, content())
    found = [[msgpack.packb(header_of(cls)), payload] for cls in SOCKETS[name] for payload in payloads]
    if name == "data":
        found += [[pack(HELLO), as_json(SCHEMA.to_dict())], [pack(DATA), content()]] * 10
    return found


def mutated(random: Random, frames: Frames, others: list[Frames]) -> Frames:
    """Return the same message with a random change."""
    changed = list(frames)
    choice = random.randrange(6)
    if choice == 0:
        changed[0] = with_other_value(random, changed[0])
    elif choice == 1:
        changed[1] = random.choice(others)[1]
    elif choice == 2:
        changed = changed[: random.randrange(3)] + [bytes_of(random)] * random.randrange(2)
    else:
        place = random.choices((0, 1), (3, 1))[0]
        for _ in range(random.choice((1, 1, 1, 2, 8))):
            changed[place] = with_other_bytes(random, changed[place])
    return changed


def with_other_value(random: Random, header: bytes) -> bytes:
    """A header with one field set to something else, and sometimes one field more or less."""
    values = msgpack.unpackb(header)
    name = random.choice(list(values))
    values[name] = random.choice(VALUES)
    if random.random() < 0.1:
        del values[random.choice(list(values))]
    packed: bytes = msgpack.packb(values)
    return packed


def with_other_bytes(random: Random, data: bytes) -> bytes:
    """Return bytes with some changed, removed, inserted or repeated."""
    place = random.randrange(len(data) + 1)
    end = min(len(data), place + random.randrange(1, 9))
    match random.randrange(5):
        case 0:
            return data[:place] + bytes([random.randrange(256)]) + data[place + 1 :]
        case 1:
            return data[:place] + data[end:]
        case 2:
            return data[:place] + bytes_of(random) + data[place:]
        case 3:
            return data[:place]
        case _:
            return data[:end] + data[place:]


def bytes_of(random: Random) -> bytes:
    """A few bytes."""
    return random.randbytes(random.randrange(9))


# ---------------------------------------------------------------------------------------------------------- raw bytes

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"


def frame(body: bytes, *, more: bool = False) -> bytes:
    """A ZMTP frame."""
    if len(body) > 255:
        return struct.pack(">BQ", 2 | more, len(body)) + body
    return struct.pack(">BB", int(more), len(body)) + body


def raw_attacks(random: Random, good: list[Frames]) -> Iterator[bytes]:
    """Return the bytes of several attacks, one string each."""
    header, payload = random.choice(good)
    yield random.randbytes(random.randrange(1, 4096))
    yield GREETING[: random.randrange(64)]
    yield with_other_bytes(random, GREETING) + READY
    yield GREETING + with_other_bytes(random, READY) + random.randbytes(64)
    yield GREETING + READY + random.randbytes(random.randrange(1, 4096))
    yield GREETING + READY + struct.pack(">BQ", 2, random.choice((2**63 - 1, 2**64 - 1, 2**40, 2**32)))
    yield GREETING + READY + frame(header, more=True) + frame(payload)[: random.randrange(1, len(payload) + 2)]
    yield GREETING + READY + frame(header, more=True) * random.randrange(1, 200) + frame(payload)
    yield GREETING + READY + b"".join(frame(part, more=True) for part in mutated(random, [header, payload], good)) + frame(b"")
    yield GREETING + READY + frame(bytes(random.randrange(8192, 100_000)), more=True) + frame(b"")
    yield GREETING + READY + (frame(header, more=True) + frame(payload)) * random.randrange(1, 50)


def attack(address: str, data: bytes, timeout_s: float = 1.0) -> None:
    """Say something on a connection of its own, and hang up; the other side may do so first."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        connection.sendall(data)
        connection.settimeout(0.001)
        connection.recv(65536)
