"""A link of 2 MB/s with messages of 20 MB on it, each way: they arrive whole, once, and nobody is taken for dead meanwhile."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.network.places import missing_privilege
from tests.network.runs import UNROLL, far_run

WHY_NOT = missing_privilege()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(WHY_NOT is not None, reason=f"no network of our own: {WHY_NOT}"),
]
LINK_BYTES_S = 2_000_000.0
WIDTH, HIDDEN, ROWS = 75_000, 133, 4
MESSAGE_MB = 20.0
STEPS = 4
LARGE = [
    f"env={{kind: factory, factory: 'tests.network.numbered:Numbered', kwargs: {{width: {WIDTH}}}}}",
    f"trainer.batch_size={ROWS}",
    f"actors.envs_per_actor={ROWS}",
    f"agent.hidden_sizes=[{HIDDEN}]",
]


def test_messages_of_20_mb_cross_a_link_of_2_mb_a_second_whole_and_once(tmp_path: Path) -> None:
    # By hand: 4 trajectories of 17 observations of 75,000 float32 are 20.4 MB, and so is a batch of them; 133 x 75,000
    # weights and a few are 10 million, 20 MB as bfloat16.
    assert ROWS * (UNROLL + 1) * WIDTH * 4 > MESSAGE_MB * 1e6
    assert HIDDEN * WIDTH * 2 > 0.99 * MESSAGE_MB * 1e6
    with far_run(tmp_path, *LARGE, actors=1, seed=4) as (run, stack):
        for host in (run.learner, *run.actors):
            for line in (host.up, host.down):
                line.bytes_s, line.delay_s = LINK_BYTES_S, 0.005
        began = time.monotonic()
        run.until_trained(ROWS * STEPS, within_s=250)
        took = time.monotonic() - began
        run.until(lambda: run.actor(0).get("policy_version", -1) >= 1, 60, "weights that were learnt have reached the actor")
        status = run.status()
        assert (status["expired"], status["restarts"], status["rejected"]) == (0, 0, {}), "nobody was taken for dead"
        assert status["fleet"].get("duplicates", status["ledger"].get("duplicate", 0)) == 0, status
        carried = {
            "learner up": run.learner.up.carried / 1e6,
            "learner down": run.learner.down.carried / 1e6,
            "actor up": run.actors[0].up.carried / 1e6,
            "actor down": run.actors[0].down.carried / 1e6,
        }
        most = 1.25 * (STEPS + 1) * MESSAGE_MB  # one more may be under way; the rest is packets' headers
        assert max(carried["learner up"], carried["learner down"]) < most, f"something was sent again and again: {carried}"
        sys.stdout.write(f"{STEPS} learner steps in {took:.0f} s; MB carried: {carried}\n")
        run.check(run.stop(stack, within_s=120), unsent=2 * ROWS)
