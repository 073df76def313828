"""The pipe between the two processes of the replay server.

It carries a few JSON lines at the start. Later it shows when a process ends: the kernel closes its
end, however it died, and the other process sees the end of the stream at once.
"""

from __future__ import annotations

import json
import socket
from typing import Any

LINE_WITHIN_S = 10.0
MAX_LINE_BYTES = 64 * 1024


class Pipe:
    """One end of the pipe.

    Args:
        end: a connected stream socket.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._received = b""
        end.settimeout(LINE_WITHIN_S)

    def fileno(self) -> int:
        """Return the file descriptor for a poller.

        It is readable when the other end has sent something or is gone.
        """
        return self._socket.fileno()

    def send(self, values: dict[str, Any]) -> None:
        """Send one line. Nothing happens if the other process is gone."""
        try:
            self._socket.sendall(json.dumps(values).encode() + b"\n")
        except OSError:
            return

    def receive(self) -> dict[str, Any] | None:
        """Wait for one line; None if the other end is gone, or sends nothing for 10 s."""
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
