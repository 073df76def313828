"""The start-up test of keys: each socket must accept the server's key and reject an unknown key and no key.

A socket that accepts everybody looks just like a secured one, so this is tested at every start.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import zmq

from oatmill.errors import RunError
from protocol.channels.sockets import reachable_here, use_keys
from protocol.security.keys import ClientKeys

ANSWERS_WITHIN_S = 10.0
LET_IN, REFUSED, SILENT = "let in", "refused", "left without an answer"
EVENTS = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: LET_IN,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: REFUSED,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: REFUSED,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: REFUSED,
    zmq.EVENT_DISCONNECTED: REFUSED,
}


def check_keys(endpoints: Mapping[str, str], *, own: ClientKeys, stranger: ClientKeys) -> None:
    """Try three clients on every socket.

    Args:
        endpoints: each socket's address, by its name.
        own: trusted keys.
        stranger: keys that are not trusted.

    Raises:
        RunError: if one is accepted that should not be, or the trusted one is not.
    """
    wanted = (("its own key", own, LET_IN), ("an unknown key", stranger, REFUSED), ("no key", None, REFUSED))
    for name, address in endpoints.items():
        for what, keys, expected in wanted:
            came = try_connection(address, keys)
            if came != expected:
                raise RunError(
                    f"the start-up test of keys failed: on {name} at {address} a client with {what} was {came}, "
                    f"expected {expected}; the server ends before it serves anybody"
                )


def try_connection(address: str, keys: ClientKeys | None, within_s: float = ANSWERS_WITHIN_S) -> str:
    """Connect once; returns LET_IN, REFUSED or SILENT.

    Args:
        address: a server's address.
        keys: the client's keys; None for a client without keys.
        within_s: the longest wait.
    """
    from zmq.utils.monitor import recv_monitor_message  # noqa: PLC0415 -- it loads asyncio, and only servers with keys come here

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with context.socket(zmq.DEALER) as client:
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.IPV6, 1)
        use_keys(client, keys)
        with client.get_monitor_socket(sum(EVENTS)) as monitor:
            client.connect(reachable_here(address))
            deadline = time.monotonic() + within_s
            while monitor.poll(max(0, round((deadline - time.monotonic()) * 1000))):
                ending = EVENTS.get(zmq.Event(recv_monitor_message(monitor)["event"]))
                if ending is not None:
                    client.disable_monitor()
                    return ending
            client.disable_monitor()
            return SILENT
