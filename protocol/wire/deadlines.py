"""The deadlines of the protocol, in seconds.

Every wait of every peer ends by one of them, so nothing hangs silently.
"""

from __future__ import annotations

RETRY_EVERY_S = 1.0
"""A question is repeated after this long without an answer."""
ANSWER_WITHIN_S = 2.0
"""An acknowledgement is overdue after this long. Sender and receiver then compare their sequence
numbers."""
HEARTBEAT_EVERY_S = 2.0
"""A process that makes progress reports it this often."""
DEAD_AFTER_S = 5.0
"""An actor that sends nothing for this long is considered dead and loses its credit."""
LOST_AFTER_S = 60.0
"""A server that does not answer a question for this long is given up."""
GOODBYE_WITHIN_S = 0.5
"""A process that leaves waits this long for the answer to its BYE."""
SLOWEST_LINK_BYTES_S = 2**20
"""The slowest link on which no large message is sent twice, in bytes per second."""


def answer_within_s(nbytes: int) -> float:
    """Return after how many seconds an answer is overdue.

    A large message on a slow link takes long, but it arrives. Sending it again earlier would fill
    the link with copies, and every copy would delay the answer further.

    Args:
        nbytes: the number of bytes that are sent before the answer, in either direction.
    """
    return max(ANSWER_WITHIN_S, nbytes / SLOWEST_LINK_BYTES_S)
