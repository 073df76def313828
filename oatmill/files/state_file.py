"""State files: JSON with its kind, its version and a digest of its content, so that damage is detected."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from oatmill.json_values import canonical_json

STATE_VERSION = 1


class DamagedStateError(Exception):
    """A state file is damaged; the message says how."""


def encode_state(kind: str, content: Any) -> bytes:
    """Return the bytes of a state file.

    Args:
        kind: the kind of the file.
        content: values that JSON can represent.
    """
    return json.dumps(
        {"oatmill": kind, "version": STATE_VERSION, "digest": _digest(kind, content), "content": content}
    ).encode()


def decode_state(kind: str, data: bytes) -> Any:
    """Return the content of a state file.

    Args:
        kind: the expected kind.
        data: the file's bytes.

    Raises:
        DamagedStateError: if they are not a result of `encode_state`.
    """
    try:
        values = json.loads(data)
        found = values["oatmill"], values["version"], values["digest"]
        content = values["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise DamagedStateError("it is not a state file") from None
    if found[:2] != (kind, STATE_VERSION):
        raise DamagedStateError(f"expected {kind} of version {STATE_VERSION}, got {str(found[0])[:40]} of {str(found[1])[:40]}")
    if found[2] != _digest(kind, content):
        raise DamagedStateError("its content does not fit its digest")
    return content


def _digest(kind: str, content: Any) -> str:
    return hashlib.blake2b(canonical_json([kind, content]), digest_size=16).hexdigest()
