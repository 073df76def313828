"""What `oatmill chaos` does to a run, without a run."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from oatmill.errors import UserError
from runner.chaos.faults import CLOCKS, SKEW_S, Scene, clocks, flip_log_bit, set_clock, small_disk
from runner.chaos.watch import TOLD_FOR_S, Watch

CLOCKS_OF = "import time; print(time.time(), time.time_ns(), time.monotonic(), time.monotonic_ns())"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A folder that looks like a run's, with a process in the place of its supervisor."""
    (tmp_path / "log").mkdir()
    (tmp_path / "run.json").write_text('{"processes": []}')
    (tmp_path / "events.jsonl").touch()
    with subprocess.Popen(["sleep", "60"]) as supervisor:
        yield Scene(tmp_path, supervisor.pid, 60.0, contextlib.nullcontext, tmp_path / "clocks")
        supervisor.kill()


def test_one_bit_of_a_closed_segment_is_flipped(scene: Scene) -> None:
    closed, newest = scene.folder / "log" / "0.log", scene.folder / "log" / "1.log"
    for segment in (closed, newest):
        segment.write_bytes(bytes(1000))
    assert flip_log_bit(scene, Random(1)) == "log bit flipped"
    assert int.from_bytes(closed.read_bytes(), "little").bit_count() == 1
    assert newest.read_bytes() == bytes(1000)
    assert len(scene.flips) == 1


def test_without_a_log_nothing_is_flipped(scene: Scene) -> None:
    assert flip_log_bit(scene, Random(1)) == ""
    assert scene.flips == []


def test_processes_have_clocks_of_their_own_and_follow_the_file(scene: Scene) -> None:
    variables = {**os.environ, **clocks(scene.clocks)}

    def read() -> list[float]:
        shown = subprocess.run([sys.executable, "-c", CLOCKS_OF], env=variables, capture_output=True, text=True, check=True)
        return [float(word) for word in shown.stdout.split()]

    wall, wall_ns, monotonic, monotonic_ns = read()
    assert abs(wall - time.time()) < 60
    assert abs(wall_ns / 1e9 - wall) < 60
    assert abs(monotonic_ns / 1e9 - monotonic) < 60
    assert abs(read()[2] - monotonic) > 60, "another process counts from another moment"
    scene.clocks.write_bytes(struct.pack(f"{CLOCKS}d", *[SKEW_S] * CLOCKS))
    assert abs(read()[0] - time.time() - SKEW_S) < 60


def test_clocks_are_set_within_a_day(scene: Scene) -> None:
    clocks(scene.clocks)
    set_clock(scene, Random(1))
    offsets = struct.unpack(f"{CLOCKS}d", scene.clocks.read_bytes())
    assert 0 < sum(offset != 0 for offset in offsets) < CLOCKS
    assert all(abs(offset) <= SKEW_S for offset in offsets)


def test_a_loss_is_silent_unless_an_event_has_told_of_damage_a_short_time_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, now = tmp_path / "events.jsonl", [0.0]
    events.touch()
    monkeypatch.setattr("runner.chaos.watch.time.monotonic", lambda: now[0])
    watch = Watch("ipc://nowhere", events)
    assert watch.silent_losses(0) == 0
    events.write_text(json.dumps({"time": 0.0, "event": "log_damaged", "text": "16 are lost"}) + "\n")
    assert watch.silent_losses(16) == 0
    assert watch.silent_losses(17) == 0, "an actor that came back knew of one more"
    now[0] += TOLD_FOR_S + 1
    assert watch.silent_losses(17) == 0
    assert watch.silent_losses(20) == 3


def test_who_may_not_mount_is_told_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "mount").write_text("#!/bin/sh\necho 'mount: must be superuser' >&2\necho '  see dmesg' >&2\nexit 32\n")
    (tools / "mount").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    refused = r"--fault disk must mount .* failed \(mount: must be superuser\); run the command as root or"
    with pytest.raises(UserError, match=refused), small_disk(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
