"""Bad messages of every kind, in both directions on all four sockets, with the reason for which each is rejected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import msgpack
import numpy as np
from lz4 import block as lz4

from protocol.data.run_schema import RunSchema
from protocol.data.trajectory import BlockSize, TrajectoryBlock
from protocol.data.weights import digest_of
from protocol.wire import messages
from protocol.wire.codec import MAX_HEADER_BYTES, MAX_JSON_BYTES
from protocol.wire.version import versions
from replay.hub.core import COUNTS
from tests.replay.blocks import SPACES, block

Frames = list[bytes]
SCHEMA = RunSchema(SPACES, core_state_size=2, episode_statistics=("hearts",))
"""With a recurrent state, so that each field of a block has numbers."""
NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Case:
    """One bad message.

    Attributes:
        name: what is wrong.
        frames: the message.
        reason: the reason of the rejection.
        counted: whether it is counted in `oatmill_rejected_total`; a process that is rejected is
            not.
    """

    name: str
    frames: Frames
    reason: str
    counted: bool = True


# --------------------------------------------------------------------------------------------------- any header at all

SOCKETS: dict[str, tuple[Any, ...]] = {
    "data": messages.DATA_TO_INGEST,
    "batches": messages.BATCH_TO_INGEST,
    "control": messages.CONTROL_TO_HUB,
    "weights": messages.WEIGHTS_TO_HUB,
    "data to actor": messages.DATA_TO_ACTOR,
    "batches to rank": messages.BATCH_TO_RANK,
    "control to client": messages.CONTROL_TO_CLIENT,
    "weights to client": messages.WEIGHTS_TO_CLIENT,
}
GOOD = {"Count": 1, "CountOrNone": -1, "Seconds": 2.5, "int": 1, "bool": True, "str": "word", "Mapping[str, float]": {"a": 1.0}}
NO_NUMBER: tuple[Any, ...] = (None, True, "1", [1], {"a": 1}, b"")
WRONG: dict[str, tuple[Any, ...]] = {
    "Count": (*NO_NUMBER, -1, 2**53, 2**64 - 1, -(2**63), 1.0),
    "CountOrNone": (*NO_NUMBER, -2, 2**53, 2**64 - 1, -1.0),
    "int": (*NO_NUMBER, 2**63, 1.0),
    "Seconds": (*NO_NUMBER, -1.0, NAN, INF, -INF, 2.0**53, 2**60),
    "bool": (None, 0, 1, "true", [True]),
    "str": (None, 1, True, ["word"], b""),
    "Mapping[str, float]": (None, 1, [1.0], {"a": NAN}, {"a": -INF}, {"a": True}, {"a": "b"}, {"a": {}}),
}
TOO_LARGE: tuple[Any, ...] = ("x" * 257, b"x", [0] * 65, {str(n): 1.0 for n in range(65)}, msgpack.ExtType(1, b"x"), {1: 1.0})
"""Beyond the limits of unpacking, whatever the field."""
BAD_KINDS: tuple[Any, ...] = (None, 7, [], {"a": 1}, "", "hello", "HELLO ", "\0")
BAD_VERSIONS: tuple[Any, ...] = ("1", None, True, 1.5, -2, 2**53, [], {})
BAD_REPORTS: tuple[Any, ...] = ({}, {"report": []}, {"report": {}, "answering": "1"}, {"report": {}, "answering": None})
BAD_ENDPOINTS: tuple[Any, ...] = (None, [], "x", {"data": 1}, {"data": None})


def header_of(cls: Any) -> dict[str, Any]:
    """Return a header with valid values in all fields."""
    return {"kind": cls.KIND} | {entry.name: GOOD[str(entry.type)] for entry in fields(cls)}


def header_cases(cls: Any) -> Iterator[Case]:
    """Every field of one message: missing, of another type, out of range, too large."""
    good = header_of(cls)
    for entry in fields(cls):
        missing = {name: value for name, value in good.items() if name != entry.name}
        yield Case(f"no {entry.name}", [msgpack.packb(missing), b""], "header_fields")
        for value in WRONG[str(entry.type)]:
            changed = msgpack.packb(good | {entry.name: value})
            yield Case(f"{entry.name} is {value!r}", [changed, b""], "header_fields")
        for value in TOO_LARGE:
            changed = msgpack.packb(good | {entry.name: value})
            yield Case(f"{entry.name} is {str(value)[:20]}", [changed, b""], "header_msgpack")
    yield Case("one field more", [msgpack.packb(good | {"more": 1}), b""], "header_fields")
    yield Case("no kind", [msgpack.packb({name: good[name] for name in good if name != "kind"}), b""], "header_kind")


def envelope_cases(classes: tuple[Any, ...]) -> Iterator[Case]:
    """Headers that belong to no message of a socket."""
    good = msgpack.packb(header_of(classes[0]))
    others = [cls for socket in SOCKETS.values() for cls in socket if cls.KIND not in {one.KIND for one in classes}]
    yield Case("no frame", [], "frames")
    yield Case("one frame", [good], "frames")
    yield Case("three frames", [good, b"", b""], "frames")
    yield Case("an empty header", [b"", b""], "header_msgpack")
    yield Case("8 KB and a byte", [good.ljust(MAX_HEADER_BYTES + 1, b"\0"), b""], "header_size")
    yield Case("a byte behind the map", [good + b"\0", b""], "header_msgpack")
    yield Case("a byte too short", [good[:-1], b""], "header_msgpack")
    yield Case(
        "a field twice", [bytes([good[0] + 1]) + good[1:] + msgpack.packb("kind") + msgpack.packb("X"), b""], "header_msgpack"
    )
    yield Case("a list", [msgpack.packb([1, 2]), b""], "header_msgpack")
    yield Case("a number", [msgpack.packb(7), b""], "header_msgpack")
    yield Case("nil", [b"\xc0", b""], "header_msgpack")
    yield Case("a byte that msgpack never uses", [b"\xc1", b""], "header_msgpack")
    yield Case("a map of 4 billion entries", [b"\xdf\xff\xff\xff\xff", b""], "header_msgpack")
    yield Case("a list of 4 billion entries", [b"\xdd\xff\xff\xff\xff", b""], "header_msgpack")
    yield Case("a text of 4 GB", [b"\xdb\xff\xff\xff\xff", b""], "header_msgpack")
    yield Case("bytes of 4 GB", [b"\xc6\xff\xff\xff\xff", b""], "header_msgpack")
    yield Case("an extension of 4 GB", [b"\xc9\xff\xff\xff\xff\x01", b""], "header_msgpack")
    yield Case("8,000 lists in each other", [b"\x81\xa4kind" + b"\x91" * 8000, b""], "header_msgpack")
    yield Case("no UTF-8", [b"\x81\xa4kind\xa2\xff\xfe", b""], "header_msgpack")
    yield Case("half a surrogate pair", [b"\x81\xa4kind\xa3\xed\xa0\x80", b""], "header_msgpack")
    yield Case("a map in the place of a name", [b"\x81\x80\x01", b""], "header_msgpack")
    yield Case("a pickle", [b"\x80\x04\x95\x00", b""], "header_msgpack")
    yield Case("an empty map", [b"\x80", b""], "header_kind")
    for kind in BAD_KINDS:
        yield Case(f"kind {kind!r}", [msgpack.packb({"kind": kind}), b""], "header_kind")
    for cls in {cls.KIND: cls for cls in others}.values():
        yield Case(f"{cls.KIND} of another socket", [msgpack.packb(header_of(cls)), b""], "header_kind")


# ------------------------------------------------------------------------------------------------------------ payloads

BAD_JSON: dict[str, bytes] = {
    "nothing": b"",
    "a list": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "no JSON": b"{",
    "no UTF-8": b'{"a": "\xff"}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "a number that is read as infinity": b'{"a": 1e999}',
    "a number of 65 bits": b'{"a": 9223372036854775808}',
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "half a surrogate pair": b'{"\\ud800": 1}',
    "34 levels": b'{"a": ' + b"[" * 33 + b"]" * 33 + b"}",
    "100,000 levels": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "4 MB and a byte": b'{"a": "' + b"x" * (MAX_JSON_BYTES - 8) + b'"}',
}


def json_cases(message: Any) -> Iterator[Case]:
    """Messages with invalid JSON payloads."""
    for name, payload in BAD_JSON.items():
        yield Case(f"{type(message).__name__} with {name}", [pack(message), payload], "payload_json")


def pack(message: Any, **changed: Any) -> bytes:
    """A message's header, with some fields changed."""
    values = {"kind": message.KIND} | {entry.name: getattr(message, entry.name) for entry in fields(message)}
    packed: bytes = msgpack.packb(values | changed)
    return packed


def changed(values: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """JSON with one value at a dotted path replaced."""
    copied: dict[str, Any] = json.loads(json.dumps(values))
    *parents, last = path.split(".")
    place = copied
    for name in parents:
        place = place[name]
    place[last] = value
    return copied


def as_json(values: Any) -> bytes:
    """A mapping whose JSON text is given."""
    return json.dumps(values).encode()


BAD_SCHEMAS: tuple[tuple[str, Any, str], ...] = (
    ("core_state_size", -1, "schema"),
    ("core_state_size", None, "schema"),
    ("core_state_size", True, "schema"),
    ("core_state_size", 2.0, "schema"),
    ("core_state_size", 2**40, "schema"),
    ("episode_statistics", None, "payload_json"),
    ("episode_statistics", "hearts", "payload_json"),
    ("episode_statistics", [1], "payload_json"),
    ("episode_statistics", ["a", "a"], "schema"),
    ("episode_statistics", ["a\n"], "schema"),
    ("episode_statistics", [str(number) for number in range(1025)], "schema"),
    ("spaces", None, "schema"),
    ("spaces", 3, "schema"),
    ("spaces", "x", "schema"),
    ("spaces", [], "schema"),
    ("spaces", {}, "schema"),
    ("spaces.observation", None, "schema"),
    ("spaces.observation.kind", None, "schema"),
    ("spaces.observation.kind", ["vector"], "schema"),
    ("spaces.observation.kind", "sound", "schema"),
    ("spaces.observation.shape", None, "schema"),
    ("spaces.observation.shape", [], "schema"),
    ("spaces.observation.shape", [2, 2], "schema"),
    ("spaces.observation.shape", "a", "schema"),
    ("spaces.observation.shape", [-1], "schema"),
    ("spaces.observation.shape", [2.0], "schema"),
    ("spaces.observation.shape", [True], "schema"),
    ("spaces.observation.shape", [2**31], "schema"),
    ("spaces.observation.shape", [2**30], "schema"),
    ("spaces.observation.dtype", None, "schema"),
    ("spaces.observation.dtype", 4, "schema"),
    ("spaces.observation.dtype", "object", "schema"),
    ("spaces.observation.dtype", "no dtype", "schema"),
    ("spaces.observation.dtype", "<f4", "schema"),
    ("spaces.observation.dtype", ["float32"], "schema"),
    ("spaces.observation.dtype", {"names": ["a"], "formats": ["<f4"]}, "schema"),
    ("spaces.observation.dtype", "f4,f4", "schema"),
    ("spaces.observation.feature_scales", None, "schema"),
    ("spaces.observation.feature_scales", ["1"], "schema"),
    ("spaces.observation.feature_scales", [1] * 257, "schema"),
    ("spaces.observation.categorical_features", [0], "schema"),
    ("spaces.observation.categorical_features", [[]], "schema"),
    ("spaces.observation.num_categories", -1, "schema"),
    ("spaces.observation.num_categories", 2**40, "schema"),
    ("spaces.observation.num_categories", None, "schema"),
    ("spaces.observation.window", [], "schema"),
    ("spaces.observation.window", [16], "schema"),
    ("spaces.observation.window", [0, 16], "schema"),
    ("spaces.observation.window", [16, 10**6], "schema"),
    ("spaces.action", None, "schema"),
    ("spaces.action.sizes", [], "schema"),
    ("spaces.action.sizes", [0], "schema"),
    ("spaces.action.sizes", ["3"], "schema"),
    ("spaces.action.sizes", [3.0], "schema"),
    ("spaces.action.sizes", [2**31], "schema"),
    ("spaces.action.sizes", [2**29], "schema"),
    ("spaces.action.sizes", [3, 3], "schema"),
    ("spaces.action.factored", None, "schema"),
    ("spaces.action.factored", 0, "schema"),
)
"""What an actor may say wrong of its trajectories, by the place in the schema."""

# ---------------------------------------------------------------------------------------------------------------- data

HELLO = messages.DataHello(0, 1, 2, SCHEMA.identity, 0, 0, 0)
CONTENT = block(2, truncate=((0, 1),), returns=(1.0,), schema=SCHEMA)
DATA = messages.Data(0, 1, SCHEMA.identity, 2, 2, 2, 1, 1, 0, 1.0, 4, 0, {"env_steps": 4.0})
FLOATS = (
    "observations",
    "rewards",
    "behaviour_logits",
    "behaviour_value",
    "core_state",
    "final_observations",
    "episode_return",
)
RESERVED = 2**31 - 1


def content(**arrays: Any) -> bytes:
    """The block's bytes, with the last number of some fields replaced."""
    values: dict[str, Any] = {name: np.array(value) for name, value in vars(CONTENT).items() if isinstance(value, np.ndarray)}
    for name, value in arrays.items():
        values[name].flat[-1] = value
    return bytes(SCHEMA.trajectory.pack(replace(CONTENT, **values)))


def flagged(name: str, value: int) -> bytes:
    """The block's bytes, with a byte of a flag that is no flag."""
    payload = bytearray(content())
    SCHEMA.trajectory.views(payload, CONTENT.size)[name].view(np.uint8).flat[-1] = value
    return bytes(payload)


def reshaped(**arrays: Any) -> tuple[dict[str, Any], bytes]:
    """A block with whole fields replaced, and the header's sizes for it."""
    values: TrajectoryBlock = replace(CONTENT, **arrays)
    size = BlockSize(2, 2, len(values.final_step), len(values.episode_return))
    return {"finals": size.finals, "episodes": size.episodes}, bytes(SCHEMA.trajectory.pack(values))


def logits(*last: float) -> Any:
    """Logits whose last row, of the action 1, is given."""
    values = np.zeros((2, 2, 3), np.float32)
    values[-1, -1] = last
    return values


def data_cases() -> Iterator[Case]:
    """Blocks and greetings of an actor that has sent one block of 2."""
    yield from number_cases()
    yield from final_cases()
    yield from size_cases()
    yield case("another schema's id", "schema", schema_id="another")
    yield case("no schema's id", "schema", schema_id="")
    yield case("fewer produced than sent", "header_fields", produced=3)
    yield case("produced without the evicted", "header_fields", evicted=1)
    yield case("more evicted than produced", "header_fields", evicted=5)
    yield case("a block that begins within the one before", "sequence", first=1)
    yield case("an actor that never came", "unknown_session", actor_id=9)
    yield case("an incarnation that never came", "unknown_session", incarnation=2)
    yield case("an incarnation before", "fenced", incarnation=0, counted=False)
    for cls in (messages.DataHeartbeat, messages.DataBye):
        name = cls.__name__
        yield Case(f"{name}: more evicted than produced", [pack(cls(0, 1, 2, 3)), b""], "header_fields")
        yield Case(f"{name}: an actor that never came", [pack(cls(9, 1, 0, 0)), b""], "unknown_session")
        yield Case(f"{name}: an incarnation that never came", [pack(cls(0, 2, 0, 0)), b""], "unknown_session")
        yield Case(f"{name}: an incarnation before", [pack(cls(0, 0, 0, 0)), b""], "fenced", counted=False)
    yield from greeting_cases()


def case(name: str, reason: str, payload: bytes | None = None, *, counted: bool = True, **header: Any) -> Case:
    """A block that is sound but for some fields of its header, or its payload."""
    return Case(name, [pack(DATA, **header), content() if payload is None else payload], reason, counted)


def sized(name: str, number: int) -> dict[str, Any]:
    """One field of a header."""
    return {name: number}


def number_cases() -> Iterator[Case]:
    """Blocks with numbers that cannot be trained on."""
    # NaN among the statistics stands for what an episode's `info` does not have.
    for name, value in [*product(FLOATS, (NAN, INF, -INF)), *product(["episode_statistics"], (INF, -INF))]:
        yield case(f"{name} holds {value}", "non_finite", content(**{name: value}))
    for name, byte in product(("terminated", "truncated", "valid"), (2, 255)):
        yield case(f"{name} holds the byte {byte}", "not_boolean", flagged(name, byte))
    for action in (3, -1, RESERVED, -RESERVED):
        yield case(f"action {action}", "action_range", content(actions=action))
    for reward in (1.1e6, -1.1e6, 3e38):
        yield case(f"reward {reward}", "reward_bound", content(rewards=reward))
    for row in ((0, -81, 0), (1e31, 0, 0), (-3e38, -3e38, -3e38), (3e38, 3e38, -3e38), (0, -3e38, 0)):
        header, payload = reshaped(behaviour_logits=logits(*row))
        yield case(f"behaviour logits {row}", "behaviour", payload, **header)
    for length in (0, -1, -RESERVED):
        yield case(f"an episode of {length} steps", "episodes", content(episode_length=length))


def size_cases() -> Iterator[Case]:
    """Headers and payloads that do not fit each other or the run."""
    payload = content()
    for name, body in {"a byte more": payload + b"\0", "a byte less": payload[:-1], "twice": 2 * payload, "none": b""}.items():
        yield case(f"the payload, {name}", "payload_length", body)
    for name, body in {"a byte more": payload + b"\0", "a byte less": payload[:-1], "very long": bytes(2**24)}.items():
        shorter = lz4.compress(body, store_size=False)
        yield case(f"the payload, compressed, {name}", "payload_length", shorter)
        yield case(f"the payload, compressed, {name}, cut", "payload_length", shorter[:-1])
    for steps in (0, 1, 3, -1, 2**40, 2**62):
        yield case(f"{steps} steps", "unroll_length", steps=steps)
    for version in (-1, 1, 2**62, -(2**62)):
        yield case(f"version {version}", "version_range", policy_version=version)
    for name, number in product(("finals", "episodes"), (-1, 5, 2**62)):
        yield case(f"{number} {name}", "final_index", **sized(name, number))
    # Two episodes would take as many bytes as one, for fields are padded to 8.
    for name, number in product(("finals", "episodes"), (0, 3, 4)):
        yield case(f"{number} {name}, there is 1", "payload_length", **sized(name, number))
    for rows in (0, 1, 3, -2, 2**62):
        yield case(f"{rows} rows", "rows", trajectories=rows, produced=2**52)


def final_cases() -> Iterator[Case]:
    """Final observations that do not belong to the truncated step, (0, 1)."""
    for name, value in (("final_trajectory", 2), ("final_trajectory", -1), ("final_step", 2), ("final_step", -1)):
        yield case(f"{name} {value}", "final_index", content(**{name: value}))
    yield case("a final observation of another row", "final_index", content(final_trajectory=1))
    yield case("a final observation of another step", "final_index", content(final_step=0))
    yield case("a final observation of a terminated step", "final_index", reshaped(terminated=CONTENT.truncated)[1])
    header, body = reshaped(truncated=np.ones((2, 2), np.bool_))
    yield case("steps that were cut without a final observation", "final_index", body, **header)
    header, body = reshaped(truncated=np.zeros((2, 2), np.bool_))
    yield case("a final observation where nothing was cut", "final_index", body, **header)
    twice = {name: np.repeat(getattr(CONTENT, name), 2, 0) for name in ("final_observations", "final_trajectory", "final_step")}
    header, body = reshaped(**twice)
    yield case("a final observation twice", "final_index", body, **header)
    cut = np.array([[False, True], [False, True]])
    header, body = reshaped(**twice, truncated=cut)
    yield case("one step's final observation twice and another's not at all", "final_index", body, **header)


def greeting_cases() -> Iterator[Case]:
    """HELLO of an actor to ingest."""
    good = SCHEMA.to_dict()
    yield from json_cases(HELLO)
    for path, value, reason in BAD_SCHEMAS:
        yield Case(f"HELLO with {path} {str(value)[:30]}", [pack(HELLO), as_json(changed(good, path, value))], reason)
    for rows in (0, -1, 2**16 + 1, 2**62):
        yield Case(f"HELLO with {rows} rows", [pack(HELLO, rows=rows), as_json(good)], "header_fields")
    yield Case("HELLO with another name of the schema", [pack(HELLO, schema_id="another"), as_json(good)], "schema")
    other = replace(SCHEMA, core_state_size=4)
    frames = [pack(HELLO, schema_id=other.identity), as_json(other.to_dict())]
    yield Case("HELLO with another schema than the run's", frames, "schema", counted=False)
    yield Case("HELLO of an incarnation before", [pack(HELLO, incarnation=0), as_json(good)], "fenced", counted=False)


# ------------------------------------------------------------------------------------------------------------- batches


def batch_cases() -> Iterator[Case]:
    """To ingest, from the one rank of a learner that has joined, holds batch 0 of 4 rows and has trained on nothing."""
    hello, get = messages.BatchHello(0, 1, 4, "t", 0, -1), messages.Get(0, "t", 1, 0, -1, -1, 0)

    def greeting(name: str, reason: str, *, counted: bool = False, **header: Any) -> Case:
        return Case(f"HELLO {name}", [pack(hello, **{"token": "u"} | header), b""], reason, counted)

    yield greeting("with a rank beyond the world", "header_fields", counted=True, rank=1)
    yield greeting("without ranks", "batch_size", world=0)
    yield greeting("with ranks that do not divide the batch", "batch_size", world=3)
    yield greeting("with more ranks than rows", "batch_size", world=2**50)
    for size in (0, 3, 8, 2**50):
        yield greeting(f"with batches of {size}", "batch_size", batch_size=size)
    yield greeting("of a process that was replaced", "fenced", token="before")
    yield greeting("of an incarnation before", "fenced", incarnation=0)
    yield Case("GET of a process that was replaced", [pack(get, token="before"), b""], "fenced", counted=False)
    yield Case(
        "CONSUMED of a process that was replaced", [pack(messages.Consumed(0, "before", 0, 0)), b""], "fenced", counted=False
    )
    yield from priority_cases()
    for batch in (1, 7, 2**53 - 1):
        yield Case(f"GET after batch {batch}, which never was", [pack(get, consumed=batch), b""], "sequence")
        yield Case(f"CONSUMED of batch {batch}, which never was", [pack(messages.Consumed(0, "t", batch, 0)), b""], "sequence")


def priority_cases() -> Iterator[Case]:
    """CONSUMED of batch 0, whose priorities are not 4 finite numbers from 0 on."""
    header = pack(messages.Consumed(0, "t", 0, 1))

    def told(name: str, payload: bytes) -> Case:
        return Case(f"CONSUMED with {name}", [header, payload], "priorities")

    good = np.ones(4, "<f4").tobytes()
    for name, body in {
        "a byte more": good + b"\0",
        "a byte less": good[:-1],
        "a byte": b"\0",
        "a row more": good + good[:4],
    }.items():
        yield told(f"priorities, {name}", body)
    yield told("a row less", good[:-4])
    yield told("float64 numbers", np.ones(4).tobytes())
    yield told("64 KB", bytes(2**16))
    for value, row in product((NAN, INF, -INF, -1.0, -1e-30), (0, 3)):
        numbers = np.ones(4, "<f4")
        numbers[row] = value
        yield told(f"the priority {value} of row {row}", numbers.tobytes())


# ------------------------------------------------------------------------------------------------------------- control

CONFIG = {"env.id": "Toy-v0"}
ACTOR = {"config": CONFIG, "spaces": SPACES.to_dict(), "episode_statistics": ["hearts"], "rows": 4}
LEARNER = {"config": CONFIG, "rank": 0}


def control_cases() -> Iterator[Case]:
    """To the hub, which knows an actor `a`, a learner `l` and its ingest `i`."""
    hello = messages.Hello("actor", -1, "new", -1)

    def join(name: str, reason: str, description: Any, *, counted: bool = False, **header: Any) -> Case:
        return Case(f"HELLO {name}", [pack(hello, **header), as_json(description)], reason, counted)

    yield from json_cases(hello)
    yield join("of no role", "header_fields", ACTOR, counted=True, role="")
    yield join("of another role", "header_fields", ACTOR, counted=True, role="king")
    yield join("without a token", "header_fields", ACTOR, counted=True, token="")
    yield join("of an actor id that is too high", "request", ACTOR, actor_id=10_000)
    yield join("of a process that has left", "fenced", ACTOR, token="gone")
    yield join("without settings", "description", {})
    yield join("with settings that are none", "description", ACTOR | {"config": [1]})
    yield join("with other settings", "config", ACTOR | {"config": CONFIG | {"env.id": "Other-v0"}})
    yield join("with a setting more", "config", ACTOR | {"config": CONFIG | {"a": 1}})
    yield join("with settings of 100 KB", "config", ACTOR | {"config": {"x" * 100_000: 1}})
    yield join("with other spaces", "spaces", changed(ACTOR, "spaces.observation.shape", [3]))
    yield join("with other statistics", "spaces", changed(ACTOR, "episode_statistics", ["coins"]))
    for path, value, reason in BAD_SCHEMAS:
        if path != "core_state_size":
            yield join(f"with {path} {str(value)[:30]}", reason, changed(ACTOR, path, value), counted=True)
    for rank in (None, "0", -1, 4096, 2**62, True, 0.0):
        yield join(f"of the learner's rank {rank!r}", "description", LEARNER | {"rank": rank}, role="learner")
    yield join("of a learner with other settings", "config", LEARNER | {"config": {}}, role="learner")
    for secret in (None, "", "guess", 7):
        yield join(f"of an ingest with the secret {secret!r}", "description", {"secret": secret}, role="ingest")
    yield from machine_cases()
    yield from report_cases()
    for kind in (messages.Status, messages.Scale, messages.Stop):
        yield from json_cases(kind(7))
    for actors in (None, -1, 10_001, "7", True, 2.0, [7]):
        yield Case(f"SCALE to {actors!r}", [pack(messages.Scale(7)), as_json({"actors": actors})], "request", counted=False)
        of_own = as_json({"actors": 1, "own_actors": actors})
        yield Case(f"SCALE of a run's own to {actors!r}", [pack(messages.Scale(7)), of_own], "request", counted=False)
    yield Case("SCALE to nothing", [pack(messages.Scale(7)), b"{}"], "request", counted=False)


WRONG_VERSIONS: tuple[Any, ...] = (None, "0.1.0", [], {}, versions() | {"oatmill": "9.9"}, {"oatmill": ["0"] * 5000})


def machine_cases() -> Iterator[Case]:
    """HELLO of a machine to the hub."""
    header = pack(messages.Hello("machine", -1, "new", -1))
    for actors in (None, 0, 10_001, "4", True, 4.0, [4]):
        payload = as_json({"versions": versions(), "actors": actors})
        yield Case(f"HELLO of a machine with {actors!r} actors", [header, payload], "request", counted=False)
    for theirs in WRONG_VERSIONS:
        payload = as_json({"versions": theirs, "actors": 4})
        yield Case(f"HELLO of a machine with versions {str(theirs)[:30]}", [header, payload], "version", counted=False)


def report_cases() -> Iterator[Case]:
    """HEARTBEAT to the hub."""
    yield from json_cases(messages.Heartbeat("a"))
    yield Case("HEARTBEAT of nobody", [pack(messages.Heartbeat("nobody")), b"{}"], "forgotten", counted=False)
    yield Case("HEARTBEAT of one that has left", [pack(messages.Heartbeat("gone")), b"{}"], "forgotten", counted=False)
    yield Case("a report of 64 KB", [pack(messages.Heartbeat("a")), as_json({"x": "y" * 2**16})], "payload_json")
    for token in ("a", "l"):
        for value in BAD_VERSIONS:
            frames = [pack(messages.Heartbeat(token)), as_json({"policy_version": value})]
            yield Case(f"{token}'s policy_version {value!r}", frames, "payload_json")
    for name in COUNTS:
        for value in ("1", None, -1, 0.5, 2**53):
            yield Case(f"{name} {value!r}", [pack(messages.Heartbeat("a")), as_json({name: value})], "payload_json")
    for report in BAD_REPORTS:
        yield Case(f"ingest's report {report}", [pack(messages.Heartbeat("i")), as_json(report)], "payload_json")


# ------------------------------------------------------------------------------------------------------------- weights

NUMBERS = np.arange(10, dtype=np.float32).tobytes()


def weight_cases() -> Iterator[Case]:
    """To the hub, which holds version 3."""
    digest = digest_of(4, "float32", NUMBERS).hex()
    push = messages.WeightsPush(4, "float32", digest, 0.0, "l")

    def pushed(name: str, reason: str, payload: bytes = NUMBERS, **header: Any) -> Case:
        return Case(f"a push {name}", [pack(push, **header), payload], reason)

    yield pushed("with a bit turned", "weights_digest", NUMBERS[:-1] + bytes([NUMBERS[-1] ^ 1]))
    yield pushed("cut short", "weights_digest", NUMBERS[:-4])
    yield pushed("with four bytes more", "weights_digest", NUMBERS + b"\0\0\0\0")
    yield pushed("of another version", "weights_digest", version=5)
    yield pushed("of another dtype", "weights_digest", dtype="bfloat16")
    for cut in (1, 2, 3):
        yield pushed(f"with {cut} bytes too many", "weights_layout", NUMBERS + b"\0" * cut)
    yield pushed("of half a bfloat16", "weights_layout", NUMBERS + b"\0", dtype="bfloat16")
    yield pushed("of nothing", "weights_layout", b"")
    for dtype in ("", "float16", "object", "float64"):
        yield pushed(f"as {dtype!r}", "header_fields", dtype=dtype)
    for wrong in ("", digest[:-1], digest[:-2], digest + "00", "g" * 32, "\u00e9" * 32, digest.upper() + " "):
        yield pushed(f"with the digest {wrong[:40]!r}", "header_fields", digest=wrong)
    yield pushed("of an old version as no dtype", "header_fields", version=1, dtype="float16")
    get = messages.WeightsGet(3, -1, 0, 8)
    for offset in (41, 2**52):
        yield Case(f"GET from {offset} on", [pack(get, offset=offset), b""], "header_fields")
    yield Case("GET of nothing", [pack(get, length=0), b""], "header_fields")


# ---------------------------------------------------------------------------------------------------------- to clients


def to_actor_cases() -> Iterator[Case]:
    """From ingest to an actor that has sent two blocks of 2."""
    ack = messages.Ack(1, 1, 5, 2, 1000, 0, resend=False)
    welcome = messages.DataWelcome(1, 1, 5, 2, 1000, 100, 0)
    for message in (ack, welcome):
        for number in (1, 3, 6, 2**52):
            yield Case(f"{message.KIND} of {number}", [pack(message, next=number), b""], "sequence")


def to_rank_cases() -> Iterator[Case]:
    """From ingest to a rank that waits for its first batch."""
    size = BlockSize(2, 2, 0, 0)
    batch = messages.BatchMessage(1, 0, 0, 2, 2, 0, stop=False)
    payload = bytes(SCHEMA.batch.nbytes(size))
    yield from json_cases(messages.BatchWelcome("t"))
    yield from json_cases(messages.FleetStatus(1))
    for path, value, reason in BAD_SCHEMAS:
        frames = [pack(messages.BatchWelcome("t")), as_json(changed(SCHEMA.to_dict(), path, value))]
        yield Case(f"WELCOME with {path} {str(value)[:30]}", frames, reason)
    for name, body in {"a byte more": payload + b"\0", "a byte less": payload[:-1], "none": b""}.items():
        yield Case(f"BATCH, {name}", [pack(batch), body], "payload_length")
    for header in (
        {"trajectories": 3},
        {"steps": 1},
        {"finals": 1},
        {"trajectories": 2**52},
        {"steps": 2**52, "finals": 2**52},
    ):
        yield Case(f"BATCH with {header}", [pack(batch, **header), payload], "payload_length")


def to_member_cases() -> Iterator[Case]:
    """From the hub to a process that has joined."""
    welcome = messages.HelloAccepted(0, 1, 0)
    good = {"endpoints": {"data": "ipc:///d"}, "spaces": SPACES.to_dict(), "episode_statistics": ["hearts"]}
    yield from json_cases(welcome)
    yield from json_cases(messages.HubState(0, stop=False, desired_actors=1, fenced=False, report_asked=0))
    yield from json_cases(messages.Status(1))
    for value in BAD_ENDPOINTS:
        frames = [pack(welcome), as_json(good | {"endpoints": value})]
        yield Case(f"WELCOME with the endpoints {value}", frames, "payload_json")
    for path, value, reason in BAD_SCHEMAS:
        if path not in {"core_state_size", "spaces"}:
            yield Case(f"WELCOME with {path} {str(value)[:30]}", [pack(welcome), as_json(changed(good, path, value))], reason)


def to_weights_cases() -> Iterator[Case]:
    """From the hub to an actor that pulls version 4 of ten numbers."""
    digest = digest_of(4, "float32", NUMBERS).hex()
    chunk = messages.WeightsChunk(4, "float32", digest, 40, 0)
    yield Case("a chunk with a bit turned", [pack(chunk), b"\1" + NUMBERS[1:]], "weights_digest")
    yield Case("a chunk of another version", [pack(chunk, version=5), NUMBERS], "weights_digest")
    for nbytes in (0, 36, 44, 2**52):
        yield Case(f"weights of {nbytes} bytes", [pack(chunk, nbytes=nbytes), NUMBERS], "weights_layout")
    yield Case("weights of half the bytes a number", [pack(chunk, dtype="bfloat16"), NUMBERS], "weights_layout")
    for dtype in ("", "float16", "object"):
        yield Case(f"weights as {dtype!r}", [pack(chunk, dtype=dtype), NUMBERS], "header_fields")
    for wrong in ("", "00", "g" * 32):
        yield Case(f"weights with the digest {wrong!r}", [pack(chunk, digest=wrong), NUMBERS], "header_fields")


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "data": data_cases,
    "batches": batch_cases,
    "control": control_cases,
    "weights": weight_cases,
    "data to actor": to_actor_cases,
    "batches to rank": to_rank_cases,
    "control to client": to_member_cases,
    "weights to client": to_weights_cases,
}
"""By socket, what is wrong behind a sound header."""


def all_cases(socket: str) -> list[Case]:
    """Return all bad messages for a socket."""
    classes = SOCKETS[socket]
    headers = [replace(case, name=f"{cls.KIND}: {case.name}") for cls in classes for case in header_cases(cls)]
    return [*envelope_cases(classes), *headers, *CASES[socket]()]
