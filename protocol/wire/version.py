"""What two machines must have in common: the version of oatmill, and the format of all messages."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from protocol.wire import messages

GROUPS = {
    name: getattr(messages, name)
    for name in (
        "CONTROL_TO_HUB",
        "CONTROL_TO_CLIENT",
        "DATA_TO_INGEST",
        "DATA_TO_ACTOR",
        "BATCH_TO_INGEST",
        "BATCH_TO_RANK",
        "WEIGHTS_TO_HUB",
        "WEIGHTS_TO_CLIENT",
    )
}

PAYLOADS = "blocks: packed or lz4"
"""The formats of payloads; a change of them changes the digest."""


def oatmill_version() -> str:
    """Return the installed version, or `unknown` in a checkout that is not installed."""
    try:
        return version("oatmill")
    except PackageNotFoundError:
        return "unknown"


@cache
def versions() -> dict[str, str]:
    """The version of oatmill, and a digest of the format of all messages, which also tells development versions apart."""
    lines = [PAYLOADS] + [
        f"{name} {message.KIND} {[(field.name, str(field.type)) for field in fields(message)]}"
        for name, group in GROUPS.items()
        for message in group
    ]
    return {"oatmill": oatmill_version(), "messages": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]}
