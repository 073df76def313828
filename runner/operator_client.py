"""The supervisor's and the operator commands' line to a run's hub."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oatmill.errors import PeerLostError
from protocol.channels import ControlClient
from protocol.security.keys import client_keys

ANSWER_S = 2.0
"""How long one question may take; the hub answers within milliseconds."""


class HubLine:
    """Asks the hub how a run stands, and tells it to scale or stop.

    Args:
        address: the hub's control address.
        keys: the folder of the operator's keys, or the one that holds it; None for a run without keys.
        role: whose keys they are: a learner's key may stop a run too, for it knows when the budget is spent.

    Raises:
        UserError: if there are no good keys.
    """

    def __init__(self, address: str, keys: Path | None = None, *, role: str = "operator") -> None:
        self._client = ControlClient(address, role="operator", description={}, keys=client_keys(keys, role))

    def status(self, *, unless: Callable[[], bool] = lambda: False) -> Mapping[str, Any] | None:
        """How the run stands; None if the hub has not answered in time, or `unless` has come true."""
        try:
            return self._client.request("status", {}, timeout_s=ANSWER_S, unless=unless)
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
def hub_line(address: str, keys: Path | None = None, *, role: str = "operator") -> Iterator[HubLine]:
    """A line that is closed at the end. Arguments and errors as HubLine."""
    line = HubLine(address, keys, role=role)
    try:
        yield line
    finally:
        line.close()
