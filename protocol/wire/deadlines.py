"""The deadlines of the protocol, in seconds. Every wait of every peer ends by one of them (nothing hangs in silence)."""

from __future__ import annotations

RETRY_EVERY_S = 1.0
"""A question that has not been answered is put again after this long."""
ANSWER_WITHIN_S = 2.0
"""An acknowledgement is overdue after this long: sender and receiver compare where they are."""
HEARTBEAT_EVERY_S = 2.0
"""A process that makes progress says so this often."""
DEAD_AFTER_S = 5.0
"""An actor that has said nothing for this long is taken for dead and loses its credit."""
LOST_AFTER_S = 60.0
"""A server that has been asked and has said nothing for this long is given up."""
GOODBYE_WITHIN_S = 0.5
"""A process that leaves waits this long for its BYE to be answered."""
SLOWEST_LINK_BYTES_S = 2**20
"""A link that carries no more than this is the slowest on which nothing large is sent twice."""


def answer_within_s(nbytes: int) -> float:
    """When an answer is overdue to a question with this many bytes on their way before it, one way or the other.

    A large message on a slow link takes long and arrives all the same; sending it again before that would fill the link with
    copies, and every copy would delay the answer further.
    """
    return max(ANSWER_WITHIN_S, nbytes / SLOWEST_LINK_BYTES_S)
