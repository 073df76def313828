from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oatmill.errors import WireError
from protocol.wire import messages
from protocol.wire.codec import MAX_HEADER_BYTES, MAX_JSON_BYTES, decode, encode, from_json, shortened, to_json, two_frames
from protocol.wire.reasons import BAD_MESSAGE

SOCKETS = {
    "control to hub": messages.CONTROL_TO_HUB,
    "control to client": messages.CONTROL_TO_CLIENT,
    "data to ingest": messages.DATA_TO_INGEST,
    "data to actor": messages.DATA_TO_ACTOR,
    "batches to ingest": messages.BATCH_TO_INGEST,
    "batches to rank": messages.BATCH_TO_RANK,
    "weights to hub": messages.WEIGHTS_TO_HUB,
    "weights to client": messages.WEIGHTS_TO_CLIENT,
}
EXAMPLES = {
    "int": 7,
    "Count": 7,
    "CountOrNone": -1,
    "Seconds": 2.5,
    "float": 2.5,
    "bool": True,
    "str": "word",
    "Mapping[str, float]": {"a": 1.0, "b": 2},
}

HEARTBEAT = {"kind": "HEARTBEAT", "actor_id": 1, "incarnation": 2, "produced": 3, "evicted": 4, "session": "s"}


def reason_of(header: bytes) -> str:
    with pytest.raises(WireError) as caught:
        decode(header, messages.DATA_TO_INGEST)
    return caught.value.reason


def every_message() -> list[tuple[Any, Any]]:
    return [(cls, classes) for classes in SOCKETS.values() for cls in classes]


@pytest.mark.parametrize(("cls", "classes"), every_message(), ids=lambda value: getattr(value, "__name__", ""))
def test_every_message_is_decoded_as_it_was_encoded(cls: Any, classes: Any) -> None:
    message = cls(*(EXAMPLES[str(entry.type)] for entry in fields(cls)))
    header, payload = encode(message, b"payload")
    assert payload == b"payload"
    assert decode(header, classes) == message


def test_a_socket_names_each_of_its_messages_once() -> None:
    for classes in SOCKETS.values():
        kinds = [cls.KIND for cls in classes]
        assert len(kinds) == len(set(kinds))


def test_a_message_is_two_frames() -> None:
    assert two_frames([b"header", b"payload"]) == (b"header", b"payload")
    for frames in ([], [b"header"], [b"header", b"payload", b"more"]):
        with pytest.raises(WireError, match=f"frames: expected 2 frames, got {len(frames)}"):
            two_frames(frames)


def test_a_header_of_more_than_8_kb_is_rejected_unread() -> None:
    assert reason_of(b"\xc1" * (MAX_HEADER_BYTES + 1)) == "header_size"
    assert reason_of(b"\xc1" * MAX_HEADER_BYTES) == "header_msgpack"  # 0xc1 is no msgpack at all, but it was read


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"", "header_msgpack"),
        (b"\x81", "header_msgpack"),  # a map of one entry that is not there
        (msgpack.packb(HEARTBEAT) + b"\x00", "header_msgpack"),  # something behind the map
        (msgpack.packb([1, 2]), "header_msgpack"),
        (msgpack.packb({1: 2}), "header_msgpack"),  # a key that is no string
        (msgpack.packb({"kind": b"DATA"}), "header_msgpack"),  # binary
        (msgpack.packb({"kind": msgpack.ExtType(1, b"x")}), "header_msgpack"),
        (msgpack.packb({"kind": "x" * 257}), "header_msgpack"),
        (msgpack.packb({"kind": list(range(65))}), "header_msgpack"),
        (msgpack.packb({"kind": {str(n): n for n in range(65)}}), "header_msgpack"),
        (b"\xa1\xff", "header_msgpack"),  # a string that is not UTF-8
        (b"\x91" * 2000, "header_msgpack"),  # lists nested 2,000 deep
        (b"\xdf\xff\xff\xff\xff", "header_msgpack"),  # claims 4 billion entries
        (msgpack.packb({}), "header_kind"),
        (msgpack.packb({"kind": 3}), "header_kind"),
        (msgpack.packb({"kind": ["DATA"]}), "header_kind"),
        (msgpack.packb({"kind": "WEIGHTS"}), "header_kind"),  # another socket's
        (msgpack.packb({"kind": "HEARTBEAT"}), "header_fields"),
        (msgpack.packb(HEARTBEAT | {"more": 1}), "header_fields"),
        (msgpack.packb(HEARTBEAT | {"produced": "3"}), "header_fields"),
        (msgpack.packb(HEARTBEAT | {"produced": 3.0}), "header_fields"),
        (msgpack.packb(HEARTBEAT | {"produced": True}), "header_fields"),  # to Python a bool is an int; not to us
        (msgpack.packb(HEARTBEAT | {"produced": None}), "header_fields"),
        (msgpack.packb(HEARTBEAT | {"produced": 2**63}), "header_fields"),
    ],
)
def test_a_bad_header_is_rejected_with_its_reason(header: bytes, reason: str) -> None:
    assert reason_of(header) == reason


def test_counters_are_plain_finite_numbers_by_name() -> None:
    good = messages.Data(0, 0, "id", 0, 1, 1, 0, 0, 0, 0.0, 1, 0, {"steps": 5, "time": 0.5})
    values = msgpack.unpackb(encode(good)[0])
    assert decode(msgpack.packb(values), messages.DATA_TO_INGEST) == good
    for bad in ({"steps": math.nan}, {"steps": "5"}, {"steps": [5]}, [5], 5):
        assert reason_of(msgpack.packb(values | {"counters": bad})) == "header_fields"
    assert reason_of(msgpack.packb(values | {"collected_at": math.inf})) == "header_fields"


def reason_or_none(header: bytes) -> str | None:
    try:
        decode(header, messages.DATA_TO_INGEST)
    except WireError as error:
        return error.reason
    return None


@given(st.binary(max_size=300))
def test_any_bytes_raise_at_most_a_wire_error(header: bytes) -> None:
    assert (
        reason_or_none(header) in BAD_MESSAGE
    )  # 300 random bytes are no message: the right names alone are longer than chance


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4),
    )
)
def test_a_count_in_a_header_is_an_integer_from_0_to_2_to_the_53_and_nothing_else(value: Any) -> None:
    good = type(value) is int and 0 <= value < 2**53
    assert reason_or_none(msgpack.packb(HEARTBEAT | {"produced": value})) == (None if good else "header_fields")


def test_json_payloads_have_null_for_numbers_that_json_cannot_represent() -> None:
    payload = to_json({"mean": math.nan, "list": [1.0, math.inf], "deep": {"x": -math.inf}, "fine": 2})
    assert from_json(payload) == {"mean": None, "list": [1.0, None], "deep": {"x": None}, "fine": 2}


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[1]", b"3", b'{"x": NaN}', b'{"x": Infinity}', b"\xff", b"[" * 100_000, b'{"x": ' + b"9" * 5000 + b"}"],
)
def test_a_bad_json_payload_is_rejected(payload: bytes) -> None:
    with pytest.raises(WireError) as caught:
        from_json(payload)
    assert caught.value.reason == "payload_json"


def test_a_json_payload_of_more_than_4_mb_is_rejected_unread() -> None:
    with pytest.raises(WireError, match="expected at most 4194304 bytes, got 4194305"):
        from_json(b" " * (MAX_JSON_BYTES + 1))


def test_a_long_detail_is_cut_to_256_bytes_between_characters() -> None:
    # By hand: 85 characters of 3 bytes are 255 bytes; the 86th does not fit whole and is left out.
    assert shortened("€" * 100) == "€" * 85
