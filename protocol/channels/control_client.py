"""The channel between a process and the hub."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from oatmill.errors import PeerLostError
from protocol.channels.connection import LONGEST_POLL_S, Connection
from protocol.channels.sockets import reachable
from protocol.peers.control import ControlPeer, ControlState, RequestKind, Role, Welcome
from protocol.security.keys import ClientKeys
from protocol.wire.deadlines import GOODBYE_WITHIN_S, HEARTBEAT_EVERY_S

CONTROL_BYTES = 8 * 2**20
"""The longest frame on the control socket."""


class ControlClient:
    """The connection of a process to the hub.

    Args:
        address: the hub's control address.
        role: the role of this process.
        description: JSON values. Actors send {"config": joining_config(...), "spaces":
            spaces.to_dict(), "episode_statistics": [...], "rows": n}; the learner {"config":
            joining_config(...), "rank": r, "world": w}; a machine {"versions": versions(), "name":
            host name, "actors": n}.
        actor_id: an actor's number; None lets the hub choose the lowest free one.
        heartbeat_every_s: the shortest time between two heartbeats.
        keys: the keys of this process's role; None for a server without keys.
    """

    def __init__(
        self,
        address: str,
        *,
        role: Role,
        description: Mapping[str, Any],
        actor_id: int | None = None,
        heartbeat_every_s: float = HEARTBEAT_EVERY_S,
        keys: ClientKeys | None = None,
    ) -> None:
        self._address, self._keys = address, keys
        self._peer = ControlPeer(
            role=role,
            description=description,
            actor_id=actor_id,
            token=secrets.token_hex(16),
            heartbeat_every_s=heartbeat_every_s,
        )
        self._connection = Connection(address, self._peer, max_message_bytes=CONTROL_BYTES, keys=keys)

    def join(self, timeout_s: float, *, wait_for_spaces: bool = False) -> Welcome:
        """Ask to join until the hub answers.

        Args:
            timeout_s: give up after this long.
            wait_for_spaces: ask until an actor has joined, so that `Welcome.spaces` is known (for
                the learner).

        Raises:
            JoinRefusedError: if the hub rejects this process, with its reason (such as the first
                setting that differs), or if the server does not accept its connection.
            PeerLostError: if no (complete) answer arrived in time.
        """
        deadline = self._connection.now() + timeout_s
        while True:
            welcome = self._join_once(max(LONGEST_POLL_S, deadline - self._connection.now()), timeout_s)
            if welcome.spaces is not None or not wait_for_spaces:
                return welcome
            if self._connection.now() >= deadline:
                raise PeerLostError(f"no actor has joined the run within {timeout_s:g} s; see the logs of the actors")
            time.sleep(LONGEST_POLL_S)

    def _join_once(self, left_s: float, timeout_s: float) -> Welcome:
        self._peer.join()
        answered = self._connection.until(lambda: self._peer.welcome is not None or self._peer.refusal is not None, left_s)
        self._connection.check(self._peer.refusal, "the hub")
        if not answered or self._peer.welcome is None:
            raise PeerLostError(
                f"no hub answered at {self._address} within {timeout_s:g} s{self._connection.why}; is the replay server up "
                "there, with these --keys?"
            )
        welcome = self._peer.welcome
        endpoints = {name: reachable(url, self._address) for name, url in welcome.endpoints.items()}
        return replace(welcome, endpoints=endpoints, keys=self._keys)

    @property
    def state(self) -> ControlState:
        """The newest state that the hub has sent, as of the last call of `join`, `heartbeat` or `request`.

        Never blocks.
        """
        return self._peer.state

    def describe(self, **values: Any) -> None:
        """Change what a hub that replaces this one is told of this process."""
        self._peer.description |= values

    @property
    def rejoined(self) -> int:
        """How often this process has joined again because the hub was replaced. A new hub has no weights."""
        return self._peer.rejoined

    @property
    def refusal(self) -> tuple[str, str] | None:
        """The reason why the hub has rejected this process, as (reason, detail); None if it has not."""
        return self._peer.refusal

    @property
    def why(self) -> str:
        """What is wrong with the connection, as the end of a sentence; empty if nothing is known."""
        return self._connection.why

    @property
    def news(self) -> Mapping[str, Any]:
        """JSON values that came with the hub's state. Only ingest gets any."""
        return self._peer.news

    @property
    def report_asked(self) -> int:
        """The number of the last report that the hub has asked for. Only ingest is asked."""
        return self._peer.report_asked

    @property
    def handle(self) -> Any:
        """The ZeroMQ socket, for a process that polls several."""
        return self._connection.handle

    def pump(self) -> None:
        """Read the hub's messages and send nothing new. Never blocks."""
        self._connection.turn()

    def heartbeat(self, report: Mapping[str, Any], *, force: bool = False) -> None:
        """Report that this process makes progress, and read the hub's messages.

        Never blocks; call it often.

        At most one heartbeat is sent per 2 s, or at once with `force`. An actor that sends none for
        5 s is considered dead, so call this during every wait, too. Actors report {"env_steps":
        ..., "policy_version": ...}, the learner {"learner_step": ..., "policy_version": ...}. Other
        JSON values are shown unchanged at /actors.

        Raises:
            PeerLostError: if the hub has not answered for 60 s.
        """
        self._peer.heartbeat(report, self._connection.now(), force=force)
        self._connection.turn()
        self._connection.check_lost(self._peer.lost(self._connection.now()), "the hub")

    def request(
        self,
        kind: RequestKind,
        body: Mapping[str, Any],
        timeout_s: float = 5.0,
        *,
        unless: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Send the hub an operator's request and wait for the answer. `join` is not needed.

        `status` {} returns {"ledger", "fleet", "actors", "live", "desired_actors",
        "policy_version", "stop", ...}; `scale` {"actors": N} sets the target number of actors, {"own_actors": N} that of
        those that no joined machine has;
        `stop` {} ends the run. The wait ends early if `unless` becomes true.

        Raises:
            JoinRefusedError: if the hub rejects the request, with its reason.
            PeerLostError: if no answer arrived in time.
        """
        self._peer.ask(kind, body)
        self._connection.until(lambda: self._peer.answer is not None or self._peer.refusal is not None or unless(), timeout_s)
        self._connection.check(self._peer.refusal, "the hub")
        if self._peer.answer is None:
            raise PeerLostError(
                f"the hub at {self._address} did not answer {kind} within {timeout_s:g} s{self._connection.why}; "
                "is the run over?"
            )
        return self._peer.answer

    def close(self, *, goodbye: bool = True) -> None:
        """Say goodbye (if this process had joined) and close. Safe to call twice."""
        if self._connection.closed:
            return
        if goodbye and self._peer.welcome is not None and not self._peer.state.fenced:
            self._peer.leave()
            self._connection.until(lambda: self._peer.said_goodbye, GOODBYE_WITHIN_S)
        self._connection.close()
