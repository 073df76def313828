"""Handles requests to stop a run. They come from a signal or from the hub; the learner gets a time limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oatmill.errors import RunError
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.signals import NOT_COUNTED, Interrupts
from runner.local.launcher import Process
from runner.local.reporter import Reporter
from runner.operator_client import OperatorClient

STOP_WITHIN_S = 60.0
"""The time in which a learner that was asked to stop finishes its learner step and saves. Then it is killed."""
STOP_EARLY_WITHIN_S = 5.0
"""The same for a learner that has nothing to save yet."""


class StopRequest:
    """Notices a request to stop, passes it on to the learner, and enforces it.

    Args:
        interrupts: counts Ctrl-C and SIGTERM.
        hub: passes the stop on to every role.
        reporter: receives an event for the request.
        clock: measures how long the learner takes.
        on_begin: called once, when the run begins to stop.
        has_checkpoint: returns whether the run has a checkpoint.
    """

    def __init__(
        self,
        interrupts: Interrupts,
        hub: OperatorClient,
        reporter: Reporter,
        clock: AwakeClock,
        on_begin: Callable[[], object],
        *,
        has_checkpoint: Callable[[], bool],
    ) -> None:
        self._interrupts, self._hub, self._reporter, self._clock = interrupts, hub, reporter, clock
        self._on_begin, self._has_checkpoint = on_begin, has_checkpoint
        self._begun: float | None = None

    @property
    def made(self) -> bool:
        """Whether the run was asked to stop."""
        return self._begun is not None

    def check_hub_status(self, status: Mapping[str, Any] | None) -> None:
        """Begin to stop if the hub's status contains a stop request.

        Args:
            status: the hub's status; None if it did not answer.
        """
        if status is not None and status["stop"] and not self.made:
            self._begin("")

    def take_interrupts(self, learner: Process) -> None:
        """Handle signals: the first one stops the run in order, the second one ends it immediately.

        Args:
            learner: the learner, which is killed if it does not end in time.

        Raises:
            RunError: at the second signal, or if a learner that has trained does not end in time.
        """
        if self._interrupts.count and not self.made:
            does = "the learner finishes its step and saves a checkpoint" if self._trained else "nothing is trained yet"
            self._begin(f"stopping: {does} (press Ctrl-C again to stop immediately)")
            # Before the first learner step there may be no hub, and there is nothing to save.
            if not self._trained or not self._hub.stop():
                learner.terminate()
        if self._interrupts.hasty():
            self._reporter.event("stop_not_counted", NOT_COUNTED, {})
        if self._interrupts.count > 1:
            raise RunError(f"stopped immediately after a second signal; {self._way_on()}")
        within_s = STOP_WITHIN_S if self._trained else STOP_EARLY_WITHIN_S
        if self._begun is not None and self._clock.now() > self._begun + within_s:
            learner.kill()
            if self._trained:
                late = f"the learner did not end within {STOP_WITHIN_S:g} s after the stop request and was killed"
                raise RunError(f"{late}; {self._way_on()}")

    @property
    def _trained(self) -> bool:
        return self._reporter.reports > 0

    def _way_on(self) -> str:
        if self._has_checkpoint():
            return "what came after its newest checkpoint is lost; --resume continues from there"
        return "there is no checkpoint yet, so the run cannot be continued: start it again"

    def _begin(self, text: str) -> None:
        self._begun = self._clock.now()
        self._on_begin()
        self._reporter.event("stop_asked", text, {})
