"""An actor that offers one block and sends heartbeats until its run or SIGTERM ends it: `python -m tests.replay.leaving_actor`.

Its arguments are the control address, its number and the exit code with which it ends at once instead, or 0.
"""

from __future__ import annotations

import sys
import time

from oatmill.process.signals import StopFlag
from tests.replay.serving import actor


def main() -> None:
    """Send."""
    address, number, code = sys.argv[1:]
    if int(code):
        sys.stderr.write("oatmill: error: the pole broke\n")
        sys.exit(int(code))
    stop = StopFlag()
    me = actor(address, actor_id=int(number))
    while not (me.control.state.stop or stop.is_set):
        me.control.heartbeat({"env_steps": me.sender.produced, "produced": me.sender.produced})
        if me.sender.wait_ready(0.05) and not me.sender.produced:
            me.offer()
        me.sender.pump()
        time.sleep(0.05)
    me.close()


if __name__ == "__main__":
    main()
