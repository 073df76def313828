"""The main program of a learner's container: starts the learner, stops it in order, and ends the run when it is done.

A container engine can only run a command, send SIGTERM and read an exit code. So this process starts
the learner, from the newest checkpoint if there is one. On SIGTERM it stops all ranks in order and then
ends with 0. When the budget is spent, it tells the hub to stop, so that the actors leave. It kills a
learner that hangs, because engines restart a container that exits, but not one that is unhealthy.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.health import problem_of_page
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.signals import StopFlag
from runner.operator_client import operator_client

log = logging.getLogger("oatmill.learner.entry")

TURN_S = 0.2
LOOK_EVERY_S = 10.0
HUNG_AFTER = 4.0
"""A learner is killed after it has been unhealthy for this many times trainer.data_timeout. /healthz reports
a problem after one such time, so a hanging learner is killed after five."""


class LearnerEntry:
    """Runs one learner, with all its ranks, until it ends.

    Args:
        command: the learner's command line.
        environ: the learner's environment variables.
        port: the port on which rank 0 serves /healthz.
        hung_after_s: a learner that was healthy and has been unhealthy for this long is killed. A learner
            that waits for data ends by itself long before.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], *, port: int, hung_after_s: float) -> None:
        self._port, self._hung_after_s = port, hung_after_s
        self._passed_on = False
        self._healthy_at: float | None = None
        self._look_at = 0.0
        self._clock = AwakeClock()
        self._stop = StopFlag()
        self._process = subprocess.Popen(command, env=dict(environ), start_new_session=True)

    @property
    def asked(self) -> bool:
        """Whether this process was asked to end."""
        return self._stop.is_set

    def wait(self) -> int:
        """Wait until the learner has ended; returns the exit code for the engine: 0 if it was asked to end."""
        while self._process.poll() is None:
            if self._stop.is_set and not self._passed_on:
                self._pass_on()
            self._look(self._clock.now())
            time.sleep(TURN_S)
        code = self._process.returncode
        if self._stop.is_set:
            log.info("the learner was asked to end and ended with %d", code)
            return 0
        return code if code >= 0 else 128 - code

    def _pass_on(self) -> None:
        """Ask the learner to end. A group passes SIGTERM on to every rank."""
        self._process.terminate()
        self._passed_on = True

    def _look(self, now: float) -> None:
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        if problem_of_page(str(self._port)) is None:
            self._healthy_at = now
        elif self._healthy_at is not None and now - self._healthy_at > self._hung_after_s:
            log.error("the learner has made no progress for %.0f s and is killed, so that it restarts", now - self._healthy_at)
            self._process.kill()  # its ranks are killed with it


def end_run(address: str, keys: Path | None) -> None:
    """Tell the hub that the run is over."""
    with operator_client(address, keys, role="learner") as hub:
        if not hub.stop():
            log.warning("the hub at %s does not answer; the actors run until they are stopped", address)
