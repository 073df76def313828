"""A loop that was paused does not count that time as silence of others."""

from __future__ import annotations

import time

import pytest

from oatmill.process.awake_clock import AwakeClock
from protocol.channels.connection import Connection
from protocol.peers.control import ControlPeer
from protocol.wire.deadlines import LOST_AFTER_S


class Moment:
    """The monotonic clock of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_short_gaps_count_in_full_and_a_long_gap_counts_as_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = Moment(monkeypatch)
    clock = AwakeClock(5.0)
    moment.now += 4.0
    assert clock.now() == 1004.0
    moment.now += 600.0  # stopped
    assert clock.now() == 1009.0  # 5 of the 600
    assert clock.asleep_s == 595.0
    moment.now += 1.0
    assert clock.now() == 1010.0


def test_a_process_that_was_paused_does_not_report_the_hub_as_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    moment = Moment(monkeypatch)
    peer = ControlPeer(role="learner", description={}, actor_id=None, token="t")
    line = Connection(f"ipc://{tmp_path_factory.mktemp('s')}/nobody", peer)
    try:
        peer.join()
        line.turn()  # the question is put
        moment.now += 3600.0
        line.turn()
        assert not peer.lost(line.now())
        for _ in range(round(LOST_AFTER_S)):
            moment.now += 1.0
            line.turn()
        assert peer.lost(line.now())
    finally:
        line.close()
