"""The state machines of learner and actors on the weights socket: the learner publishes, actors pull."""

from __future__ import annotations

from collections import deque
from math import prod

from oatmill.errors import WireError
from protocol.data.buffer_pool import BufferPool
from protocol.data.weights import DIGEST_BYTES, Layout, Weights, WireDtype
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, decode, encode
from protocol.wire.deadlines import ANSWER_WITHIN_S, answer_within_s

CHUNK_BYTES = 512 * 1024
"""The largest payload of a WEIGHTS message to an actor. It is large enough that the cost per
message does not matter, and small enough that several actors on a slow link each get one before it
is overdue."""
WINDOW_BYTES = 4 * CHUNK_BYTES
"""The number of bytes that an actor may have requested and not received yet."""
MAX_BUFFERS = 2
"""The number of buffers for pulls: one version may be in use while the next one arrives."""
SMALL_BYTES = 32 * 1024
"""A larger version is announced with OFFER before it is pushed, so that the hub expects more bytes
than usual."""
MAX_PUSHED = 2
"""The number of versions that may be on their way to the hub. A further one waits, and is replaced
by newer ones."""

DTYPES: dict[str, WireDtype] = {"bfloat16": "bfloat16", "float32": "float32"}
ITEM_BYTES = {"bfloat16": 2, "float32": 4}


def weights_digest(digest: str) -> bytes:
    """Return a header's digest as bytes.

    Raises:
        WireError: `header_fields` if it is invalid.
    """
    if len(digest) != 2 * DIGEST_BYTES:
        raise WireError("header_fields", f"expected a digest of {DIGEST_BYTES} bytes in hexadecimal, got {digest[:40]!r}")
    try:
        return bytes.fromhex(digest)
    except ValueError:
        raise WireError("header_fields", f"expected a digest in hexadecimal, got {digest[:40]!r}") from None


def weights_dtype(dtype: str) -> WireDtype:
    """Return a header's dtype.

    Raises:
        WireError: `header_fields` if weights are never sent with this dtype.
    """
    if dtype not in DTYPES:
        raise WireError("header_fields", f"expected one of {', '.join(DTYPES)}, got {dtype[:40]!r}")
    return DTYPES[dtype]


class PublisherPeer:
    """The learner, which publishes each version once and makes sure that the newest one arrives.

    Attributes:
        held: the newest version that the hub has reported to hold; -1 before its first message.
        refusal: the reason why the hub rejected a version, as (reason, detail).
    """

    def __init__(self, session: str = "") -> None:
        self._session = session
        self._pushed: deque[tuple[Weights, float]] = deque()  # on their way, with the time of sending
        self._waiting: tuple[Weights, float] | None = None
        self._newest = -1
        self._latest: Weights | None = None
        self._patience = 1  # factor on the time limit; doubles when a version is sent again without an answer
        self.held = -1
        self.refusal: tuple[str, str] | None = None

    @property
    def flushed(self) -> bool:
        """Whether the hub has the last version pushed."""
        return self.held >= self._newest

    def push_again(self) -> None:
        """Push the newest version once more, to a hub that replaced another one."""
        if self._latest is not None:
            self.held = -1
            self._pushed.clear()
            self._waiting = (self._latest, 0.0)

    def push(self, weights: Weights, wall: float) -> None:
        """Queue a version. It replaces one that still waits.

        Args:
            weights: the version.
            wall: seconds since the epoch, for oatmill_weights_publish_seconds.
        """
        self._newest, self._waiting, self._latest = weights.version, (weights, wall), weights

    def receive(self, header: Buffer, _payload: Buffer, _now: float) -> None:
        """Handle one message.

        Raises:
            WireError: if the hub never sends such a message.
        """
        message: messages.WeightsToClient = decode(header, messages.WEIGHTS_TO_CLIENT)
        if isinstance(message, messages.Reject):
            # A new hub knows no learner until the learner has joined it again; the version is then sent again.
            # A hub of an earlier release does not know OFFER.
            if message.reason not in {"unknown_session", "header_kind"}:
                self.refusal = (message.reason, message.detail)
        elif isinstance(message, messages.WeightsHeld):
            self.held, self._patience = max(self.held, message.version), 1
            while self._pushed and self._pushed[0][0].version <= self.held:
                self._pushed.popleft()

    def send(self, now: float) -> list[Frames]:
        """Return the messages to send now.

        If an acknowledgement is overdue, the newest version is sent again.
        """
        if self._pushed and now - self._pushed[0][1] >= self._overdue_s():
            latest = self._pushed[-1][0]
            self._pushed.clear()
            self._waiting = self._waiting or (latest, 0.0)
            self._patience *= 2
        if self._waiting is None or len(self._pushed) >= MAX_PUSHED:
            return []
        (weights, wall), self._waiting = self._waiting, None
        self._pushed.append((weights, now))
        header = messages.WeightsPush(weights.version, weights.dtype, weights.digest.hex(), wall, self._session)
        nbytes = memoryview(weights.buffer).nbytes
        offers = [encode(messages.WeightsOffer(nbytes, self._session))] if nbytes > SMALL_BYTES else []
        return [*offers, encode(header, weights.buffer)]

    def _overdue_s(self) -> float:
        return self._patience * answer_within_s(sum(memoryview(weights.buffer).nbytes for weights, _ in self._pushed))


class ReceiverPeer:
    """An actor that pulls the newest version from the hub, chunk by chunk; one pull at a time.

    Attributes:
        version: the newest version that was received completely; -1 before the first.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._wanted = -1  # pull until this version, or a newer one, is here
        self._head: messages.WeightsChunk | None = None  # the first chunk's header of the pull under way
        self._memory, self._buffer = BufferPool(MAX_BUFFERS), memoryview(b"")
        self._received = self._asked = 0  # bytes of the pull that were received and requested
        self._sent_at = -float("inf")
        self._outgoing: list[Frames] = []
        self._taken: Weights | None = None
        self.version = -1

    @property
    def pulling(self) -> bool:
        """Whether a newer version is wanted than the one that is here."""
        return self._wanted > self.version

    def want(self, version: int) -> None:
        """Pull until this version, or a newer one, is here."""
        if version > self._wanted:
            started, self._wanted = self.pulling, version
            if not started:
                self._restart()

    def take(self) -> Weights | None:
        """Return the weights that have arrived, once; None if there are none."""
        taken, self._taken = self._taken, None
        return taken

    def _restart(self) -> None:
        """Start the pull from the beginning."""
        self._head, self._received, self._asked = None, 0, 0
        self._sent_at = -float("inf")

    def send(self, now: float) -> list[Frames]:
        """Return the messages to send now."""
        frames, self._outgoing = self._outgoing, []
        if self.pulling and now - self._sent_at >= ANSWER_WITHIN_S:
            self._asked = self._received  # the answer is overdue: ask again
        if self.pulling and (length := self._affordable()) > 0:
            self._sent_at = now
            version = -1 if self._head is None else self._head.version
            frames.append(encode(messages.WeightsGet(version, self.version, self._asked, length)))
            self._asked += length
        return frames

    def _affordable(self) -> int:
        """Return the number of bytes to request now: at least half a window, so that there are few requests."""
        rest = WINDOW_BYTES if self._head is None else self._head.nbytes - self._asked
        free = WINDOW_BYTES - (self._asked - self._received)
        return min(rest, free) if free >= WINDOW_BYTES // 2 else 0

    def receive(self, header: Buffer, payload: Buffer, now: float) -> None:
        """Handle one message.

        Raises:
            WireError: if the hub never sends such a message, if the weights arrived damaged (the
                pull starts again), or if they belong to another network.
        """
        message: messages.WeightsToClient = decode(header, messages.WEIGHTS_TO_CLIENT)
        if isinstance(message, messages.WeightsChunk) and self.pulling:
            self._take_chunk(message, payload, now)

    def _take_chunk(self, chunk: messages.WeightsChunk, payload: Buffer, now: float) -> None:
        if chunk.version <= self.version:
            return
        if self._head is None or self._head.version != chunk.version:
            if chunk.offset != 0:
                return
            self._check_head(chunk)
            self._head, self._buffer = chunk, self._memory.take(chunk.nbytes).data
            self._received, self._asked = 0, min(WINDOW_BYTES, chunk.nbytes)
        length = memoryview(payload).nbytes
        if chunk.offset != self._received or self._received + length > self._head.nbytes:
            return  # a repetition, or a chunk before it is missing: it is requested again when it is overdue
        self._buffer[self._received : self._received + length] = payload
        self._received += length
        self._sent_at = now
        if self._received == self._head.nbytes:
            self._finish(self._head)

    def _check_head(self, head: messages.WeightsChunk) -> None:
        """Check that a chunk begins the weights of this network, before memory is allocated for them."""
        weights_digest(head.digest)
        expected = sum(prod(shape) for _, shape in self._layout) * ITEM_BYTES[weights_dtype(head.dtype)]
        if head.nbytes != expected:
            raise WireError("weights_layout", f"expected {expected} bytes for this network, got {head.nbytes}")

    def _finish(self, head: messages.WeightsChunk) -> None:
        weights = Weights(head.version, self._buffer, weights_dtype(head.dtype), weights_digest(head.digest))
        self._restart()
        self._buffer = memoryview(b"")
        weights.verify()
        self._taken, self.version = weights, weights.version
        self._outgoing.append(encode(messages.WeightsApplied(weights.version)))
