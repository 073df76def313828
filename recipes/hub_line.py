"""The supervisor's and the operator commands' line to a run's hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from protocol.channels import ControlClient
from protocol.errors import PeerLostError

ANSWER_S = 2.0
"""How long one question may take; the hub answers within milliseconds."""


class HubLine:
    """Asks the hub how a run stands, and tells it to scale or stop.

    Args:
        address: the hub's control address.
    """

    def __init__(self, address: str) -> None:
        self._client = ControlClient(address, role="operator", description={})

    def status(self) -> Mapping[str, Any] | None:
        """How the run stands; None if the hub has not answered in time."""
        try:
            return self._client.request("status", {}, timeout_s=ANSWER_S)
        except PeerLostError:
            return None

    def stop(self) -> bool:
        """Tell every role to end; False if the hub has not answered in time."""
        with contextlib.suppress(PeerLostError):
            self._client.request("stop", {}, timeout_s=ANSWER_S)
            return True
        return False

    def scale(self, actors: int) -> None:
        """Set the number of actors that the run should have.

        Raises:
            JoinRefusedError: if the hub refuses, with its reason.
            PeerLostError: if it has not answered in time.
        """
        self._client.request("scale", {"actors": actors}, timeout_s=ANSWER_S)

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self._client.close()


@contextlib.contextmanager
def hub_line(address: str) -> Iterator[HubLine]:
    """A line that is closed at the end."""
    line = HubLine(address)
    try:
        yield line
    finally:
        line.close()
