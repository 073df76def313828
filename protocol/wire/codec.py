"""The encoding of messages: exactly two frames per message, a small msgpack header and one payload.

Nothing from a peer is trusted. A header's size is checked before it is unpacked; it is unpacked
with tight limits and checked field by field. Any error raises a WireError whose reason is one of
`protocol.wire.reasons`. There is no pickle, there are no extension types, and headers contain no
binary data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Protocol, get_type_hints

import msgpack

from oatmill.errors import WireError
from oatmill.json_values import without_nonfinite

MAX_HEADER_BYTES = 8 * 1024
MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_STR_BYTES = 256
MAX_JSON_DEPTH = 32
"""The largest depth of a JSON value. A process that shows or compares a value recurses into it, and
would fail at a depth of a thousand."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""Matches what may be half a character. JSON can contain it, but it cannot be encoded again."""

MAX_COUNT = 2**53
"""Counts are below it, so they are exact as floats, and adding one stays within 64 bits."""

Count = Annotated[int, 0]
"""A whole number of at least 0."""
CountOrNone = Annotated[int, -1]
"""A whole number of at least 0, or -1 for none."""
Seconds = Annotated[float, 0]
"""Seconds since the epoch."""

Buffer = bytes | bytearray | memoryview
Frames = tuple[bytes, Buffer]
"""One message: its header and its payload."""


class Message(Protocol):
    """A frozen dataclass with plain fields, and the name that it has in a header."""

    KIND: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


def _is_int(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def is_count(value: Any) -> bool:
    """Whether a value from a peer is a whole number of at least 0 and below MAX_COUNT."""
    return type(value) is int and 0 <= value < MAX_COUNT


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_numbers(value: Any) -> bool:
    return type(value) is dict and all(map(_is_number, value.values()))


_CHECKS: dict[Any, Callable[[Any], bool]] = {
    int: _is_int,
    Count: is_count,
    CountOrNone: lambda value: type(value) is int and -1 <= value < MAX_COUNT,
    float: _is_number,
    Seconds: lambda value: type(value) in (int, float) and 0 <= value < MAX_COUNT,
    bool: lambda value: type(value) is bool,
    str: lambda value: type(value) is str,
    Mapping[str, float]: _is_numbers,
}


_MAP_16 = 0xDE


@dataclass(frozen=True)
class _Form:
    """The class of a message, and how each of its fields is checked."""

    cls: type[Any]
    checks: dict[str, Callable[[Any], bool]]


def _form(cls: type[Any]) -> _Form:
    hints = get_type_hints(cls, include_extras=True)
    return _Form(cls, {entry.name: _CHECKS[hints[entry.name]] for entry in fields(cls)})


@cache
def _names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(entry.name for entry in fields(cls))


@cache
def _forms(classes: tuple[type[Any], ...]) -> dict[str, _Form]:
    """Return the messages that a socket accepts, by the name in the header."""
    return {cls.KIND: _form(cls) for cls in classes}


def encode(message: Message, payload: Buffer = b"") -> Frames:
    """Encode a message as its two frames."""
    values: dict[str, Any] = {"kind": message.KIND}
    for name in _names(type(message)):
        values[name] = getattr(message, name)
    header: bytes = msgpack.packb(values)
    assert len(header) <= MAX_HEADER_BYTES, f"{message.KIND} has a header of {len(header)} bytes"
    return header, payload


def two_frames(frames: Sequence[Any]) -> tuple[Any, Any]:
    """Return the header and the payload of a received message.

    Raises:
        WireError: `frames` if there are not exactly two frames.
    """
    if len(frames) != 2:  # noqa: PLR2004 -- the protocol's one number of frames
        raise WireError("frames", f"expected 2 frames, got {len(frames)}")
    return frames[0], frames[1]


def decode(header: Buffer, classes: tuple[type[Any], ...]) -> Any:
    """Decode the message in a header frame.

    Args:
        header: the first frame.
        classes: the messages that this socket accepts; the result is one of them.

    Raises:
        WireError: `header_size`, `header_msgpack`, `header_kind` or `header_fields`.
    """
    values = _unpack(header)
    kind = values.pop("kind", None)
    form = _forms(classes).get(kind) if isinstance(kind, str) else None
    if form is None:
        raise WireError("header_kind", f"expected one of {', '.join(_forms(classes))}, got {str(kind)[:40]!r}")
    if values.keys() != form.checks.keys():
        names = ", ".join(sorted(str(name)[:40] for name in values.keys() ^ form.checks.keys()))
        raise WireError("header_fields", f"{kind} has missing or unknown fields: {names[:400]}")
    for name, check in form.checks.items():
        if not check(values[name]):
            raise WireError("header_fields", f"{kind}.{name} has the wrong type or range: {str(values[name])[:40]!r}")
    return form.cls(**values)


def _unpack(header: Buffer) -> dict[str, Any]:
    """Unpack one msgpack map, within limits."""
    length = memoryview(header).nbytes
    if length > MAX_HEADER_BYTES:
        raise WireError("header_size", f"expected at most {MAX_HEADER_BYTES} bytes, got {length}")
    try:
        values = msgpack.unpackb(
            header,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_STR_BYTES,
            max_array_len=64,
            max_map_len=64,
            max_bin_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError("header_msgpack", f"{type(error).__name__}: {str(error)[:100]}") from None
    if type(values) is not dict:
        raise WireError("header_msgpack", f"expected a map, got {type(values).__name__}")
    if len(values) != _entries(header):
        raise WireError("header_msgpack", "expected every field once")
    return values


def _entries(header: Buffer) -> int:
    """Return the number of entries that a packed map declares.

    A dictionary has fewer if a name occurs twice.
    """
    first = header[0]
    if first < _MAP_16:
        return first & 0x0F
    return int.from_bytes(header[1:3] if first == _MAP_16 else header[1:5])


def to_json(values: Mapping[str, Any]) -> bytes:
    """Return a JSON payload. Numbers that are not finite become null."""
    try:
        return json.dumps(values, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        return json.dumps(without_nonfinite(values), allow_nan=False, separators=(",", ":")).encode()


def from_json(payload: Buffer) -> dict[str, Any]:
    """Return the JSON object in a payload.

    Raises:
        WireError: `payload_json` if it is too long or too deep, is not JSON with finite numbers of
            64 bits, or is not an object.
    """
    length = memoryview(payload).nbytes
    if length > MAX_JSON_BYTES:
        raise WireError("payload_json", f"expected at most {MAX_JSON_BYTES} bytes, got {length}")
    text = bytes(payload)
    try:
        values = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_int64)
        if _SURROGATE.search(text):
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise WireError("payload_json", f"{type(error).__name__}: {str(error)[:100]}") from None
    if not isinstance(values, dict):
        raise WireError("payload_json", f"expected an object, got {type(values).__name__}")
    _check_depth(values)
    return values


def _check_depth(values: Any) -> None:
    level = [values]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for entry in level
            for child in (entry.values() if type(entry) is dict else entry)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise WireError("payload_json", f"expected at most {MAX_JSON_DEPTH} levels")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # 1e999 is written as a number and read as infinity
        raise ValueError(f"{text[:40]} is too large")
    return value


def _int64(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{text[:40]} has more than 64 bits")
    return value


def shortened(text: str) -> str:
    """Shorten a text so that it fits into a header."""
    return text.encode(errors="backslashreplace")[:MAX_STR_BYTES].decode(errors="ignore")


def names_in(values: Mapping[str, Any], name: str) -> Iterable[str]:
    """Return a list of names from a JSON object.

    Raises:
        WireError: `payload_json` if there is no such list, or an entry is not a string.
    """
    entries = values.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise WireError("payload_json", f"expected {name} to be a list of names")
    return entries
