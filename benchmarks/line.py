"""A sender and a receiver over tcp in this process, as an actor and ingest have them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import zmq

from protocol.channels.sockets import ClientSocket, ServerSocket
from protocol.security.keys import client_keys, server_keys
from protocol.security.zap import ZapHandler
from protocol.wire.codec import Buffer


class Line:
    """Carries messages from one socket to the other.

    Args:
        keys: the folder of `make_keys`; None for a line without encryption.
        stack: closes the sockets.
    """

    def __init__(self, keys: Path | None, stack: ExitStack) -> None:
        context = stack.enter_context(zmq.Context())
        served = server_keys(keys)
        zap = None if served is None else ZapHandler(context, served)
        self._receiver = ServerSocket(context, zap=zap, first_bytes=2**30)
        self._sender = ClientSocket(self._receiver.bind("tcp://127.0.0.1:0"), keys=client_keys(keys, "actor"))
        for part in (zap, self._receiver, self._sender):
            if part is not None:
                stack.callback(part.close)

    def carry(self, payload: Callable[[], Buffer], number: int, taken: Callable[[Buffer], object]) -> None:
        """Send messages until all have arrived.

        Args:
            payload: makes the payload of a message.
            number: the number of messages.
            taken: gets each payload that arrives.
        """
        arrived = 0
        for _ in range(number):
            self._sender.send([(b"h", payload())])
            arrived += self._receive(number, taken)
        while arrived < number:
            self._receiver.handle.poll(10)
            self._sender.send()
            arrived += self._receive(number, taken)

    def _receive(self, most: int, taken: Callable[[Buffer], object]) -> int:
        arrived = 0
        for _, _, (_, payload) in self._receiver.receive(most):
            taken(payload)
            arrived += 1
        return arrived
