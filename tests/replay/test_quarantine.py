from __future__ import annotations

import json
from pathlib import Path

import pytest

from oatmill.errors import WireError
from replay.quarantine import FILES, HEADER_BYTES, MAX_FILE_BYTES, WRITES_A_SECOND, BadMessage, Quarantine


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("replay.quarantine.time.time", lambda: now[0])
    return now


def refused(number: int = 0, detail: str = "why") -> BadMessage:
    return BadMessage.of(WireError("rows", f"{detail} {number}"), "data", b"\x80" * 3, b"payload")


def test_a_bad_message_is_written_down_with_its_reason_and_header(tmp_path: Path, clock: list[float]) -> None:
    Quarantine(tmp_path / "quarantine", "ingest").keep([refused()])
    (path,) = (tmp_path / "quarantine").iterdir()
    assert path.name == "ingest-00.json"
    assert json.loads(path.read_text()) == {
        "time": clock[0],
        "socket": "data",
        "reason": "rows",
        "payload_bytes": 7,
        "detail": "why 0",
        "header": "808080",
    }


def test_only_the_newest_are_kept_within_a_bound_on_bytes(tmp_path: Path, clock: list[float]) -> None:
    ring = Quarantine(tmp_path, "hub")
    for number in range(3 * FILES):
        clock[0] += 1
        message = BadMessage.of(WireError("rows", "\u20ac" * 5000 + str(number)), "data", b"\xff" * 9000, b"")
        ring.keep([message])
    files = list(tmp_path.iterdir())
    assert len(files) == FILES
    assert max(path.stat().st_size for path in files) <= MAX_FILE_BYTES
    assert all(len(json.loads(path.read_text())["header"]) == 2 * HEADER_BYTES for path in files)


def test_a_flood_is_not_written_completely(tmp_path: Path, clock: list[float]) -> None:
    ring = Quarantine(tmp_path, "hub")
    ring.keep(refused(number) for number in range(1000))
    assert (ring.kept, ring.skipped) == (WRITES_A_SECOND, 1000 - WRITES_A_SECOND)
    clock[0] += 1
    ring.keep([refused()])
    assert ring.kept == WRITES_A_SECOND + 1


def test_a_disk_that_refuses_writes_causes_no_failure(tmp_path: Path, clock: list[float]) -> None:
    assert clock
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "missing" / "quarantine", Path("/proc/quarantine"), None):
        ring = Quarantine(folder, "ingest")
        ring.keep([refused()])
        assert (ring.kept, ring.skipped) == (0, 1)


def test_a_full_disk_causes_no_failure() -> None:
    ring = Quarantine(Path("/dev"), "full")
    ring._name = "full"
    with pytest.MonkeyPatch.context() as patch:
        # /dev/full fails every write with ENOSPC, as a full disk does.
        patch.setattr(Path, "__truediv__", lambda _self, _name: Path("/dev/full"), raising=True)
        ring.keep([refused()])
    assert (ring.kept, ring.skipped) == (0, 1)
