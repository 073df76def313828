"""An actor that sends numbered trajectories as fast as possible until it is killed or told to stop.

python -m tests.replay.actor_process CONTROL ACTOR_ID
"""

from __future__ import annotations

import sys

from tests.replay.serving import actor


def main() -> None:
    """Send."""
    address, number = sys.argv[1:]
    me = actor(address, actor_id=int(number))
    while not me.control.state.stop:
        me.control.heartbeat({"env_steps": me.sender.produced * 2})
        if me.sender.wait_ready(0.2):
            me.offer()
    me.sender.drain(60)
    me.close()


if __name__ == "__main__":
    main()
