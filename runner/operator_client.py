"""Client of a run's hub for the supervisor and for commands such as `oatmill status`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oatmill.errors import PeerLostError
from protocol.channels import ControlClient
from protocol.security.keys import client_keys

ANSWER_S = 2.0
"""Timeout of one request, in seconds. The hub usually answers within milliseconds."""


class OperatorClient:
    """Asks the hub for the status of a run, and scales or stops the run.

    Args:
        address: control address of the hub.
        keys: folder of the operator's keys, or its parent folder; None for a run without keys.
        role: owner of the keys. A learner's keys may also stop a run, because it stops the run when
            the budget is spent.

    Raises:
        UserError: if there are no good keys.
    """

    def __init__(self, address: str, keys: Path | None = None, *, role: str = "operator") -> None:
        self._client = ControlClient(address, role="operator", description={}, keys=client_keys(keys, role))

    def status(self, *, unless: Callable[[], bool] = lambda: False) -> Mapping[str, Any] | None:
        """The run's status; None if the hub did not answer in time or `unless` returned True."""
        try:
            return self._client.request("status", {}, timeout_s=ANSWER_S, unless=unless)
        except PeerLostError:
            return None

    def stop(self) -> bool:
        """Stop all roles; False if the hub did not answer in time."""
        with contextlib.suppress(PeerLostError):
            self._client.request("stop", {}, timeout_s=ANSWER_S)
            return True
        return False

    def scale(self, actors: int, *, own: bool = False) -> None:
        """Set the target number of actors.

        Args:
            actors: the number.
            own: whether it leaves out the actors of machines that have joined, and their targets stay as they are.

        Raises:
            JoinRefusedError: if the hub refuses, with its reason.
            PeerLostError: if the hub did not answer in time.
        """
        self._client.request("scale", {"own_actors" if own else "actors": actors}, timeout_s=ANSWER_S)

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self._client.close()


@contextlib.contextmanager
def operator_client(address: str, keys: Path | None = None, *, role: str = "operator") -> Iterator[OperatorClient]:
    """A client that is closed at the end of the `with` block. Arguments and errors as OperatorClient."""
    client = OperatorClient(address, keys, role=role)
    try:
        yield client
    finally:
        client.close()
