"""Plain sockets that speak ZeroMQ's protocol wrongly on purpose."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
MORE, LONG = 1, 2
EMPTY_FRAMES = bytes((MORE, 0)) * 100_000
"""The beginning of a message that has no end."""
LARGE_FRAMES = (struct.pack(">BQ", MORE | LONG, 8000) + bytes(8000)) * 20


def place(url: str) -> tuple[str, int]:
    """Host and port of a server's TCP address."""
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def dial(url: str, *, source: str = "127.0.0.1", timeout_s: float = 5.0) -> socket.socket:
    """Open a connection that sends nothing."""
    return socket.create_connection(place(url), timeout_s, (source, 0))


def start_dialling(url: str) -> socket.socket:
    """The same without waiting until the connection is there."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex(place(url))
    return connection


def dial_file(url: str) -> socket.socket:
    """The same to a server that listens on `ipc://`."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5.0)
    connection.connect(url.removeprefix("ipc://"))
    return connection


def join(url: str) -> socket.socket:
    """Open a connection and finish the handshake of a server without keys.

    libzmq ends a connection whose first message arrives before its own READY was sent, so this
    waits for it.
    """
    connection = dial_file(url) if url.startswith("ipc:") else dial(url)
    connection.sendall(GREETING + READY)
    received = b""
    while b"READY" not in received:
        came = connection.recv(1024)
        assert came, "the server has hung up"
        received += came
    return connection


def giant_frame(nbytes: int) -> bytes:
    """Return the header of a frame with this announced length."""
    return struct.pack(">BQ", LONG, nbytes)


def ended(connection: socket.socket, within_s: float = 60.0) -> bool:
    """Whether the server closes a connection in time."""
    connection.settimeout(within_s)
    with contextlib.suppress(TimeoutError):
        try:
            while connection.recv(65536):
                pass
        except ConnectionError:
            return True
        return True
    return False


def pour(connection: socket.socket, data: bytes, seconds: float) -> int:
    """Send the same data until the server hangs up, stops reading, or the timeout; returns the number of bytes sent."""
    sent, end = 0, time.monotonic() + seconds
    connection.settimeout(0.2)
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            sent += connection.send(data)
    return sent
