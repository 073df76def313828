"""Every message, by the socket that it travels on and the way it goes.

Two classes may share a KIND, as HELLO does: what a name means depends on the socket, and each socket's tuple of classes at the
end of its section says what it takes. A header holds only what is listed here; a payload is JSON where `+ JSON` is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from protocol.wire.codec import Count, CountOrNone, Seconds

# ---------------------------------------------------------------------------------------------- control, hub's


@dataclass(frozen=True, slots=True)
class Hello:
    """Client to hub, + JSON description: let me in. Sent again until answered; the token tells a repeat from a restart."""

    KIND: ClassVar[str] = "HELLO"
    role: str
    actor_id: CountOrNone  # -1: choose one for me
    token: str  # random, one a process
    incarnation: CountOrNone  # -1: a new one; else the hub was replaced, and its predecessor let this process in as that


@dataclass(frozen=True, slots=True)
class HelloAccepted:
    """Hub to client, + JSON {endpoints, spaces, episode_statistics}."""

    KIND: ClassVar[str] = "WELCOME"
    actor_id: CountOrNone
    incarnation: Count
    policy_version: CountOrNone


@dataclass(frozen=True, slots=True)
class Reject:
    """Server to client, on every socket: no, and why."""

    KIND: ClassVar[str] = "REJECT"
    reason: str  # one of protocol.wire.reasons
    detail: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Client to hub, + JSON report: I make progress."""

    KIND: ClassVar[str] = "HEARTBEAT"
    token: str


@dataclass(frozen=True, slots=True)
class HubState:
    """Hub to client, + JSON {} or, for ingest, {members}: the answer to a heartbeat; also sent when something changes."""

    KIND: ClassVar[str] = "HEARTBEAT"
    policy_version: CountOrNone
    stop: bool
    desired_actors: Count
    fenced: bool
    report_asked: Count  # ingest only: send a report that names this number at once


@dataclass(frozen=True, slots=True)
class Status:
    """Operator to hub and back, + JSON: what is going on?"""

    KIND: ClassVar[str] = "STATUS"
    request: Count


@dataclass(frozen=True, slots=True)
class Scale:
    """Operator to hub and back, + JSON {actors}: how many actors shall there be."""

    KIND: ClassVar[str] = "SCALE"
    request: Count


@dataclass(frozen=True, slots=True)
class Stop:
    """Operator to hub and back, + JSON: end the run."""

    KIND: ClassVar[str] = "STOP"
    request: Count


@dataclass(frozen=True, slots=True)
class Bye:
    """Client to server and back, on control and batches: I leave."""

    KIND: ClassVar[str] = "BYE"
    token: str


ControlToHub = Hello | Heartbeat | Status | Scale | Stop | Bye
CONTROL_TO_HUB = (Hello, Heartbeat, Status, Scale, Stop, Bye)
ControlToClient = HelloAccepted | Reject | HubState | Status | Scale | Stop | Bye
CONTROL_TO_CLIENT = (HelloAccepted, Reject, HubState, Status, Scale, Stop, Bye)

# ------------------------------------------------------------------------------------------------ data, ingest's


@dataclass(frozen=True, slots=True)
class DataHello:
    """Actor to ingest, + JSON schema: where were we? Opens a session, or brings an open one back into step."""

    KIND: ClassVar[str] = "HELLO"
    actor_id: Count
    incarnation: Count
    rows: int  # trajectories in each block
    schema_id: str
    acknowledged: Count  # everything below it has been acknowledged
    produced: Count
    evicted: Count
    session: str = ""  # HELLO's token on the control socket, for nobody else knows it


@dataclass(frozen=True, slots=True)
class DataWelcome:
    """Ingest to actor: the answer; everything from `next` on is to be sent (again)."""

    KIND: ClassVar[str] = "WELCOME"
    incarnation: Count
    server: Count  # random, one an ingest process
    serial: Count  # numbers ACK and WELCOME together; an older one says nothing new
    next: Count  # the first sequence number that is not stored
    credit: Count  # bytes that may be sent beyond `next`
    row_bytes: Count  # what one trajectory costs of them
    version: CountOrNone  # the newest policy version


@dataclass(frozen=True, slots=True)
class Data:
    """Actor to ingest, + packed block: trajectories with sequences first .. first + trajectories - 1."""

    KIND: ClassVar[str] = "DATA"
    actor_id: Count
    incarnation: Count
    schema_id: str
    first: Count
    trajectories: int
    steps: int
    finals: int
    episodes: int
    policy_version: int
    collected_at: Seconds  # seconds since the epoch
    produced: Count  # trajectories collected so far, this block included
    evicted: Count  # trajectories dropped unsent so far
    counters: Mapping[str, float]
    session: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """Ingest to actor: everything below `next` is held."""

    KIND: ClassVar[str] = "ACK"
    incarnation: Count
    server: Count
    serial: Count
    next: Count
    credit: Count
    version: CountOrNone
    resend: bool  # something before what came is missing: send again from `next`


@dataclass(frozen=True, slots=True)
class DataLoss:
    """Ingest to actor: what a server that has died acknowledged from `first` up to `next` is not held any more. Go on."""

    KIND: ClassVar[str] = "DATA_LOSS"
    incarnation: int
    first: int
    next: int


@dataclass(frozen=True, slots=True)
class DataHeartbeat:
    """Actor to ingest: counts that no DATA has carried yet."""

    KIND: ClassVar[str] = "HEARTBEAT"
    actor_id: Count
    incarnation: Count
    produced: Count
    evicted: Count
    session: str = ""


@dataclass(frozen=True, slots=True)
class DataBye:
    """Actor to ingest and back: no more will come; what was produced and is not stored stays unsent."""

    KIND: ClassVar[str] = "BYE"
    actor_id: Count
    incarnation: Count
    produced: Count
    evicted: Count
    session: str = ""


DataToIngest = DataHello | Data | DataHeartbeat | DataBye
DATA_TO_INGEST = (DataHello, Data, DataHeartbeat, DataBye)
DataToActor = DataWelcome | Ack | DataLoss | Reject | DataBye
DATA_TO_ACTOR = (DataWelcome, Ack, DataLoss, Reject, DataBye)

# --------------------------------------------------------------------------------------------- batches, ingest's


@dataclass(frozen=True, slots=True)
class BatchHello:
    """Rank to ingest: I train; what an earlier session of this rank has not consumed returns to the queue."""

    KIND: ClassVar[str] = "HELLO"
    rank: Count
    world: Count
    batch_size: Count  # of all ranks together
    token: str
    incarnation: Count  # WELCOME's; a process that was replaced has a lower one
    resumed_from: CountOrNone  # the policy version of the checkpoint that it goes on from; -1 without one
    session: str = ""  # HELLO's token on the control socket
    shares: bool = False  # whether it can read this machine's memory: batches need not come through the socket


@dataclass(frozen=True, slots=True)
class BatchWelcome:
    """Ingest to rank, + JSON schema: sent once the first actor has told it."""

    KIND: ClassVar[str] = "WELCOME"
    token: str
    priorities: bool = False  # whether CONSUMED is to bring them


@dataclass(frozen=True, slots=True)
class Get:
    """Rank to ingest: the batch of this step, please. Sent again until it is answered."""

    KIND: ClassVar[str] = "GET"
    rank: Count
    token: str
    request: Count  # grows by one with every new request
    learner_step: Count
    consumed: CountOrNone  # the highest batch id trained on; -1 before the first
    received: CountOrNone  # the highest batch id that has come; what was handed out beyond it is not taken any more
    policy_version: CountOrNone  # the newest version that the learner knows
    freed: Count = 0  # the shared memory of batches below this one is not looked at any more
    server: Count = 0  # BatchPending's, of the ingest process that this is meant for; 0 before the first answer


@dataclass(frozen=True, slots=True)
class Consumed:
    """Rank to ingest, + nothing or protocol.data.priorities: this batch and all before it have been trained on."""

    KIND: ClassVar[str] = "CONSUMED"
    rank: Count
    token: str
    batch_id: Count
    policy_version: CountOrNone


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rank 0 to ingest and back, + JSON {id, cursor, digest} in the answer: what has been trained on up to this version.

    The answer comes once the log holds that all ranks have trained up to it.
    """

    KIND: ClassVar[str] = "SNAPSHOT"
    rank: Count
    token: str
    learner_step: Count
    consumed: CountOrNone
    policy_version: CountOrNone


@dataclass(frozen=True, slots=True)
class Commit:
    """Rank 0 to ingest and back: a checkpoint that is whole holds everything that was trained on before the cursor."""

    KIND: ClassVar[str] = "COMMIT"
    rank: Count
    token: str
    cursor: Count


@dataclass(frozen=True, slots=True)
class BatchPending:
    """Ingest to rank: I am here, but there is no batch yet. Also the answer to a GET that was meant for another server."""

    KIND: ClassVar[str] = "HEARTBEAT"
    request: Count
    server: Count = 0  # random, one an ingest process


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """Ingest to rank, + JSON: the fleet's numbers, sent just before each batch."""

    KIND: ClassVar[str] = "STATUS"
    request: Count


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """Ingest to rank, + packed batch, or nothing if it lies in shared memory."""

    KIND: ClassVar[str] = "BATCH"
    request: Count
    batch_id: Count
    learner_step: Count
    trajectories: Count
    steps: Count
    finals: Count
    stop: bool
    place: str = ""  # protocol.data.shared_memory's


BatchToIngest = BatchHello | Get | Consumed | Snapshot | Commit | Bye
BATCH_TO_INGEST = (BatchHello, Get, Consumed, Snapshot, Commit, Bye)
BatchToRank = BatchWelcome | BatchPending | FleetStatus | BatchMessage | Snapshot | Commit | Reject | Bye
BATCH_TO_RANK = (BatchWelcome, BatchPending, FleetStatus, BatchMessage, Snapshot, Commit, Reject, Bye)

# ------------------------------------------------------------------------------------------------ weights, hub's


@dataclass(frozen=True, slots=True)
class WeightsPush:
    """Learner to hub, + the whole buffer: a new version."""

    KIND: ClassVar[str] = "WEIGHTS"
    version: Count
    dtype: str
    digest: str  # hexadecimal
    pushed_at: Seconds  # seconds since the epoch
    session: str = ""  # HELLO's token on the control socket


@dataclass(frozen=True, slots=True)
class WeightsOffer:
    """Learner to hub, before a push: so many bytes come next. Until then the hub takes only small messages on a connection."""

    KIND: ClassVar[str] = "OFFER"
    nbytes: Count
    session: str = ""  # HELLO's token on the control socket


@dataclass(frozen=True, slots=True)
class WeightsHeld:
    """Hub to learner: the newest version that the hub holds."""

    KIND: ClassVar[str] = "ACK"
    version: CountOrNone


@dataclass(frozen=True, slots=True)
class WeightsGet:
    """Actor to hub: at most `length` bytes from `offset` on. The hub waits with its answer until it has `newer_than` + 1."""

    KIND: ClassVar[str] = "GET"
    version: CountOrNone  # the version of a pull under way; -1 takes the newest, from its beginning
    newer_than: CountOrNone
    offset: Count
    length: Count


@dataclass(frozen=True, slots=True)
class WeightsChunk:
    """Hub to actor, + bytes from `offset` on."""

    KIND: ClassVar[str] = "WEIGHTS"
    version: Count
    dtype: str
    digest: str
    nbytes: Count
    offset: Count


@dataclass(frozen=True, slots=True)
class WeightsApplied:
    """Actor to hub: I have this version, whole and verified."""

    KIND: ClassVar[str] = "CONSUMED"
    version: Count


WeightsToHub = WeightsPush | WeightsOffer | WeightsGet | WeightsApplied
WEIGHTS_TO_HUB = (WeightsPush, WeightsOffer, WeightsGet, WeightsApplied)
WeightsToClient = WeightsHeld | WeightsChunk | Reject
WEIGHTS_TO_CLIENT = (WeightsHeld, WeightsChunk, Reject)
