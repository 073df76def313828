"""The hub's state machine of the weights socket: it keeps the newest version and sends chunks of it.

A version is kept until all its pulls have finished. Otherwise, if a learner publishes faster than
an actor pulls, that actor would never get a whole version.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from oatmill.errors import WireError
from protocol.data.weights import digest_of
from protocol.peers.weights import CHUNK_BYTES, ITEM_BYTES, WINDOW_BYTES, weights_digest, weights_dtype
from protocol.wire import messages
from protocol.wire.codec import Buffer, Frames, decode, encode, shortened
from replay.histogram import SECONDS_BUCKETS, Histogram

MAX_OLDER = 8
"""The number of older versions that are kept, however many pulls there are."""
KEPT_FOR_S = 10.0
"""An older version is dropped when no chunk of it has been requested for this long."""


@dataclass(slots=True, eq=False)
class Held:
    """One version of the weights."""

    version: int
    dtype: str
    digest: str
    buffer: memoryview
    arrived: float  # seconds of the monotonic clock


class WeightsStore:
    """The newest weights, and older ones while they are being pulled.

    Attributes:
        offered_bytes: the largest size that the learner has announced.
        refused: the errors of bad messages, to be counted.
        sent_bytes: the number of bytes of weights sent to actors.
        publish_seconds: time from the learner's push until this store has the version.
        apply_lag: time from then until an actor has the version.
    """

    def __init__(self) -> None:
        self._newest: Held | None = None
        self._older: dict[int, Held] = {}
        self._pulls: dict[bytes, tuple[int, float]] = {}  # by connection, the version of a pull and its last request
        self._parked: dict[bytes, messages.WeightsGet] = {}  # by connection, a request for a newer version
        self._outgoing: list[tuple[bytes, Frames]] = []
        self.refused: deque[WireError] = deque()
        self.offered_bytes = 0
        self.sent_bytes = 0
        self.publish_seconds = Histogram(SECONDS_BUCKETS)
        self.apply_lag = Histogram(SECONDS_BUCKETS)

    @property
    def version(self) -> int:
        """The newest version; -1 before the first."""
        return -1 if self._newest is None else self._newest.version

    def receive(
        self,
        route: bytes,
        header: Buffer,
        payload: Buffer,
        *,
        now: float,
        wall: float,
        authorise: Callable[[messages.WeightsToHub], None] = lambda _message: None,
    ) -> None:
        """Handle one message. A bad one is answered with a REJECT, and its error is added to `refused`.

        Args:
            route: the connection that it arrived on.
            header: its first frame.
            payload: its second frame.
            now: seconds of the monotonic clock.
            wall: seconds since the epoch.
            authorise: raises WireError for a message that its sender is not allowed to send.
        """
        try:
            message: messages.WeightsToHub = decode(header, messages.WEIGHTS_TO_HUB)
            authorise(message)
            match message:
                case messages.WeightsPush():
                    self._push(route, message, payload, now=now, wall=wall)
                case messages.WeightsOffer():
                    self.offered_bytes = max(self.offered_bytes, message.nbytes)
                case messages.WeightsGet():
                    self._get(route, message, now)
                case messages.WeightsApplied():
                    self._applied(message.version, now)
        except WireError as error:
            self.refused.append(error)
            self._outgoing.append((route, encode(messages.Reject(error.reason, shortened(error.detail)))))

    def _push(self, route: bytes, push: messages.WeightsPush, payload: Buffer, *, now: float, wall: float) -> None:
        dtype, digest, nbytes = weights_dtype(push.dtype), weights_digest(push.digest), memoryview(payload).nbytes
        if nbytes % ITEM_BYTES[dtype] or not nbytes:
            raise WireError("weights_layout", f"expected numbers of {ITEM_BYTES[dtype]} bytes each, got {nbytes} bytes")
        if push.version > self.version:
            if digest != digest_of(push.version, dtype, payload):
                raise WireError("weights_digest", f"version {push.version} arrived damaged")
            self._replace(Held(push.version, push.dtype, push.digest, memoryview(payload), now), now)
            if push.pushed_at > 0:
                self.publish_seconds.observe(max(0.0, wall - push.pushed_at))
        self._outgoing.append((route, encode(messages.WeightsHeld(self.version))))

    def _replace(self, held: Held, now: float) -> None:
        if self._newest is not None:
            self._older[self._newest.version] = self._newest
        self._newest = held
        self._pulls = {route: pull for route, pull in self._pulls.items() if now - pull[1] < KEPT_FOR_S}
        pulled = {version for version, _ in self._pulls.values()}
        kept = sorted(pulled & self._older.keys())[-MAX_OLDER:]  # other pulls start again with the newest version
        self._older = {version: self._older[version] for version in kept}
        parked, self._parked = self._parked, {}
        for route, get in parked.items():
            self._get(route, get, now)

    def _get(self, route: bytes, get: messages.WeightsGet, now: float) -> None:
        held = self._older.get(get.version, self._newest)
        offset = get.offset if held is not None and held.version == get.version else 0
        if held is None or held.version <= get.newer_than:
            self._parked[route] = get
            return
        if not 0 <= offset <= held.buffer.nbytes or get.length < 1:
            raise WireError(
                "header_fields", f"expected a range within {held.buffer.nbytes} bytes, got {offset} and {get.length}"
            )
        end = min(offset + min(get.length, WINDOW_BYTES), held.buffer.nbytes)
        if end < held.buffer.nbytes:
            self._pulls[route] = (held.version, now)
        else:
            self._pulls.pop(route, None)
        for start in range(offset, end, CHUNK_BYTES):
            chunk = held.buffer[start : min(start + CHUNK_BYTES, end)]
            header = messages.WeightsChunk(held.version, held.dtype, held.digest, held.buffer.nbytes, start)
            self._outgoing.append((route, encode(header, chunk)))
            self.sent_bytes += chunk.nbytes

    def _applied(self, version: int, now: float) -> None:
        held = self._older.get(version, self._newest)
        if held is not None and held.version == version:
            self.apply_lag.observe(now - held.arrived)

    def outgoing(self) -> list[tuple[bytes, Frames]]:
        """Return everything to send now."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing
