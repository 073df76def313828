"""All messages, grouped by socket and direction.

Two classes may have the same KIND, such as HELLO: its meaning depends on the socket. The tuples at
the end of each section list the messages that a socket accepts. A header contains exactly the
fields of its class. `+ JSON` means that the payload is a JSON object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from protocol.wire.codec import Count, CountOrNone, Seconds

# ---------------------------------------------------------------------------------------------- control, hub's


@dataclass(frozen=True, slots=True)
class Hello:
    """Client to hub, + JSON description: a request to join. The token tells a repetition from a restart."""

    KIND: ClassVar[str] = "HELLO"
    role: str
    actor_id: CountOrNone  # -1: the hub chooses one
    token: str  # random; each process has its own
    incarnation: CountOrNone  # -1 for a new one; otherwise the one that an earlier hub gave to this process


@dataclass(frozen=True, slots=True)
class HelloAccepted:
    """Hub to client, + JSON {endpoints, spaces, episode_statistics, encoder; a machine: settings}: the answer to HELLO."""

    KIND: ClassVar[str] = "WELCOME"
    actor_id: CountOrNone
    incarnation: Count
    policy_version: CountOrNone


@dataclass(frozen=True, slots=True)
class Reject:
    """Server to client, on every socket: a request is rejected, with the reason."""

    KIND: ClassVar[str] = "REJECT"
    reason: str  # one of protocol.wire.reasons
    detail: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Client to hub, + JSON report: the client makes progress."""

    KIND: ClassVar[str] = "HEARTBEAT"
    token: str


@dataclass(frozen=True, slots=True)
class HubState:
    """Hub to client, + JSON ({members} for ingest): the run's state, after a heartbeat or a change."""

    KIND: ClassVar[str] = "HEARTBEAT"
    policy_version: CountOrNone
    stop: bool
    desired_actors: Count  # of the whole run; for a machine, its own share
    fenced: bool
    report_asked: Count  # ingest only: send a report with this number at once


@dataclass(frozen=True, slots=True)
class Status:
    """Operator to hub and back, + JSON: the state of the run."""

    KIND: ClassVar[str] = "STATUS"
    request: Count


@dataclass(frozen=True, slots=True)
class Scale:
    """Operator to hub and back, + JSON {actors} or {own_actors}: the target number of actors."""

    KIND: ClassVar[str] = "SCALE"
    request: Count


@dataclass(frozen=True, slots=True)
class Stop:
    """Operator to hub and back, + JSON: end the run."""

    KIND: ClassVar[str] = "STOP"
    request: Count


@dataclass(frozen=True, slots=True)
class Bye:
    """Client to server and back, on control and batches: the client leaves."""

    KIND: ClassVar[str] = "BYE"
    token: str


ControlToHub = Hello | Heartbeat | Status | Scale | Stop | Bye
CONTROL_TO_HUB = (Hello, Heartbeat, Status, Scale, Stop, Bye)
ControlToClient = HelloAccepted | Reject | HubState | Status | Scale | Stop | Bye
CONTROL_TO_CLIENT = (HelloAccepted, Reject, HubState, Status, Scale, Stop, Bye)

# ------------------------------------------------------------------------------------------------ data, ingest's


@dataclass(frozen=True, slots=True)
class DataHello:
    """Actor to ingest, + JSON schema: opens a session, or synchronises an open one."""

    KIND: ClassVar[str] = "HELLO"
    actor_id: Count
    incarnation: Count
    rows: int  # the number of trajectories in each block
    schema_id: str
    acknowledged: Count  # all sequence numbers below it were acknowledged
    produced: Count
    evicted: Count
    session: str = ""  # the token of HELLO on the control socket, which nobody else knows


@dataclass(frozen=True, slots=True)
class DataWelcome:
    """Ingest to actor: the answer to HELLO. Everything from `next` on must be sent (again)."""

    KIND: ClassVar[str] = "WELCOME"
    incarnation: Count
    server: Count  # random; each ingest process has its own
    serial: Count  # numbers ACK and WELCOME messages together; one with a lower number is outdated
    next: Count  # the first sequence number that is not stored
    credit: Count  # bytes that may be sent beyond `next`
    row_bytes: Count  # the bytes of credit that one trajectory costs
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
    produced: Count  # the number of trajectories collected so far, including this block
    evicted: Count  # the number of trajectories dropped unsent so far
    counters: Mapping[str, float]
    session: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """Ingest to actor: everything below `next` is stored."""

    KIND: ClassVar[str] = "ACK"
    incarnation: Count
    server: Count
    serial: Count
    next: Count
    credit: Count
    version: CountOrNone
    resend: bool  # whether blocks are missing: send everything from `next` on again


@dataclass(frozen=True, slots=True)
class DataLoss:
    """Ingest to actor: what an earlier server acknowledged from `first` up to `next` is lost. Continue."""

    KIND: ClassVar[str] = "DATA_LOSS"
    incarnation: int
    first: int
    next: int


@dataclass(frozen=True, slots=True)
class DataHeartbeat:
    """Actor to ingest: counts that no DATA message has carried yet."""

    KIND: ClassVar[str] = "HEARTBEAT"
    actor_id: Count
    incarnation: Count
    produced: Count
    evicted: Count
    session: str = ""


@dataclass(frozen=True, slots=True)
class DataBye:
    """Actor to ingest and back: the actor sends no more. What it produced and is not stored stays unsent."""

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
    """Rank to ingest: a rank joins. What its earlier session has not consumed returns to the queue."""

    KIND: ClassVar[str] = "HELLO"
    rank: Count
    world: Count
    batch_size: Count  # over all ranks
    token: str
    incarnation: Count  # from WELCOME; a process that was replaced has a lower one
    resumed_from: CountOrNone  # the policy version of the checkpoint that it resumes from; -1 without one
    session: str = ""  # the token of HELLO on the control socket
    shares: bool = False  # whether it can read batches from shared memory of this machine


@dataclass(frozen=True, slots=True)
class BatchWelcome:
    """Ingest to rank, + JSON schema: the answer to HELLO, sent once the first actor has sent the schema."""

    KIND: ClassVar[str] = "WELCOME"
    token: str
    priorities: bool = False  # whether CONSUMED must have priorities


@dataclass(frozen=True, slots=True)
class Get:
    """Rank to ingest: a request for the batch of a learner step, repeated until it is answered."""

    KIND: ClassVar[str] = "GET"
    rank: Count
    token: str
    request: Count  # grows by one with every new request
    learner_step: Count
    consumed: CountOrNone  # the highest batch id trained on; -1 before the first
    received: CountOrNone  # the highest batch id that was received; batches handed out after it are no longer taken
    policy_version: CountOrNone  # the newest version that the learner knows
    freed: Count = 0  # the shared memory of batches below this id is no longer used
    server: Count = 0  # the ingest process that is asked, as in BatchPending; 0 before its first answer


@dataclass(frozen=True, slots=True)
class Consumed:
    """Rank to ingest, + nothing or protocol.data.priorities: this batch and all before it were trained on."""

    KIND: ClassVar[str] = "CONSUMED"
    rank: Count
    token: str
    batch_id: Count
    policy_version: CountOrNone


@dataclass(frozen=True, slots=True)
class LogMark:
    """Rank 0 to ingest and back, + JSON {id, cursor, digest} in the answer: a checkpoint's point in the log.

    The answer is sent once the log contains that all ranks have trained up to this policy version.
    """

    KIND: ClassVar[str] = "SNAPSHOT"
    rank: Count
    token: str
    learner_step: Count
    consumed: CountOrNone
    policy_version: CountOrNone


@dataclass(frozen=True, slots=True)
class Commit:
    """Rank 0 to ingest and back: a complete checkpoint contains all that was trained on before the cursor."""

    KIND: ClassVar[str] = "COMMIT"
    rank: Count
    token: str
    cursor: Count


@dataclass(frozen=True, slots=True)
class BatchPending:
    """Ingest to rank: there is no batch yet. Also the answer to a GET that was written for another ingest process."""

    KIND: ClassVar[str] = "HEARTBEAT"
    request: Count
    server: Count = 0  # random; each ingest process has its own


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """Ingest to rank, + JSON: the fleet's statistics, sent just before each batch."""

    KIND: ClassVar[str] = "STATUS"
    request: Count


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """Ingest to rank, + the packed batch, or nothing if it is in shared memory."""

    KIND: ClassVar[str] = "BATCH"
    request: Count
    batch_id: Count
    learner_step: Count
    trajectories: Count
    steps: Count
    finals: Count
    stop: bool
    place: str = ""  # of the shared memory, see protocol.data.shared_memory


BatchToIngest = BatchHello | Get | Consumed | LogMark | Commit | Bye
BATCH_TO_INGEST = (BatchHello, Get, Consumed, LogMark, Commit, Bye)
BatchToRank = BatchWelcome | BatchPending | FleetStatus | BatchMessage | LogMark | Commit | Reject | Bye
BATCH_TO_RANK = (BatchWelcome, BatchPending, FleetStatus, BatchMessage, LogMark, Commit, Reject, Bye)

# ------------------------------------------------------------------------------------------------ weights, hub's


@dataclass(frozen=True, slots=True)
class WeightsPush:
    """Learner to hub, + the whole buffer: a new version."""

    KIND: ClassVar[str] = "WEIGHTS"
    version: Count
    dtype: str
    digest: str  # hexadecimal
    pushed_at: Seconds  # seconds since the epoch
    session: str = ""  # the token of HELLO on the control socket


@dataclass(frozen=True, slots=True)
class WeightsOffer:
    """Learner to hub: the size of the next push. Without it, the hub accepts only small messages."""

    KIND: ClassVar[str] = "OFFER"
    nbytes: Count
    session: str = ""  # the token of HELLO on the control socket


@dataclass(frozen=True, slots=True)
class WeightsHeld:
    """Hub to learner: the newest version that the hub has."""

    KIND: ClassVar[str] = "ACK"
    version: CountOrNone


@dataclass(frozen=True, slots=True)
class WeightsGet:
    """Actor to hub: a request for up to `length` bytes from `offset`, answered above version `newer_than`."""

    KIND: ClassVar[str] = "GET"
    version: CountOrNone  # the version that is being pulled; -1 for the newest, from its beginning
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
    """Actor to hub: this version was received completely and verified."""

    KIND: ClassVar[str] = "CONSUMED"
    version: Count


WeightsToHub = WeightsPush | WeightsOffer | WeightsGet | WeightsApplied
WEIGHTS_TO_HUB = (WeightsPush, WeightsOffer, WeightsGet, WeightsApplied)
WeightsToClient = WeightsHeld | WeightsChunk | Reject
WEIGHTS_TO_CLIENT = (WeightsHeld, WeightsChunk, Reject)
