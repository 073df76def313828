"""The pipe between the replay role's two processes: a few JSON lines at the start, and the other's end when it ends.

The kernel closes a process's end however it dies, so the other one sees the end of the stream at once.
"""

from __future__ import annotations

import json
import socket
from typing import Any

LINE_WITHIN_S = 10.0
MAX_LINE_BYTES = 64 * 1024


class Link:
    """One end.

    Args:
        end: a connected stream socket.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._received = b""
        end.settimeout(LINE_WITHIN_S)

    def fileno(self) -> int:
        """For a poller: readable when the other end has said something or is gone."""
        return self._socket.fileno()

    def say(self, values: dict[str, Any]) -> None:
        """Send one line; a process that is gone hears nothing."""
        try:
            self._socket.sendall(json.dumps(values).encode() + b"\n")
        except OSError:
            return

    def hear(self) -> dict[str, Any] | None:
        """Wait for one line; None if the other end is gone, or silent for 10 s."""
        try:
            while b"\n" not in self._received and len(self._received) < MAX_LINE_BYTES:
                chunk = self._socket.recv(4096)
                if not chunk:
                    return None
                self._received += chunk
        except OSError:
            return None
        line, _, self._received = self._received.partition(b"\n")
        values: dict[str, Any] = json.loads(line)
        return values

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
