"""The actors of a run: starts the wanted number, restarts an actor that died or hangs, and gives up after too many restarts.

The supervisor (`runner.local.supervisor`) calls the pool regularly and says how many actors are wanted. It starts no actor
itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from actors.settings import ActorSettings
from oatmill.errors import RunError
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.exit_codes import BAD_INPUT, USER_CODE_FAILED
from replay.hub.status import EQUAL_STREAMS
from runner.local.child import back_off
from runner.local.launcher import ActorLauncher, P, Process

HUNG_SLACK_S = 10.0
"""A hanging actor ends itself after `actors.hang_timeout` and logs where it hung. If it does not, it is killed
this many seconds later."""
SAME_ERRORS = 3
"""The run fails after this many processes in a row with the same error of the user's code or settings, if none got far."""
FAR_STEPS = 1000
"""An actor got far if it has collected unrolls of this many steps of each of its environments."""
LEFT_BACK_OFF_S = 2.0
"""An actor that exited with code 0 is restarted after this time, unless the run is stopped in the meantime."""
LEAVE_WITHIN_S = 10.0
"""The time in which an actor that was asked to stop finishes and sends its unroll. Then it is killed."""


@dataclass
class Slot(Generic[P]):
    """The place of one actor number, with its current process and its restarts.

    Attributes:
        child: the process; None while none runs.
        left: the last process, if it exited with code 0 without being asked to, and it is not known yet
            whether the run ends.
        restarts: the number of restarts so far.
        fruitless: the number of restarts in a row without a complete unroll in between.
        due: the time of the pool's clock at which the next process is started.
        incarnation: the highest incarnation that the hub has reported for this slot.
        since: the incarnation that the hub reported when the process was started.
        productive: the newest incarnation that has collected an unroll, as the hub has reported.
        far: the newest incarnation that got far.
        silent_since: when the hub stopped receiving heartbeats; None while it receives them.
        leave_by: the deadline for stopping; None as long as the actor should run.
        hung: why it was killed, if it seemed to hang.
        error: the error of the last process, if it came from the user's code or settings, as its exit code says.
        same_errors: how many processes in a row ended with this error; none of them got far.
    """

    child: P | None = None
    left: P | None = None
    restarts: int = 0
    fruitless: int = 0
    due: float = 0.0
    incarnation: int = 0
    since: int = 0
    productive: int = 0
    far: int = 0
    silent_since: float | None = None
    leave_by: float | None = None
    hung: str = ""
    error: str = ""
    same_errors: int = 0


class ActorPool(Generic[P]):
    """Keeps the wanted number of actors running. Nothing else starts or restarts actors.

    Args:
        launcher: starts and ends the actors.
        settings: the run's `actors` settings. An actor that sends no heartbeat for `hang_timeout` plus `HUNG_SLACK_S` seconds
            is killed.
        notice: called for each event with its name, a line for the user, and values.
        clock: measures how long actors are silent.

    Attributes:
        ending: whether the run is ending, so that no more actors are started.
        restarts: the number of restarts of all actors so far.
    """

    def __init__(
        self,
        launcher: ActorLauncher[P],
        *,
        settings: ActorSettings,
        notice: Callable[[str, str, Mapping[str, Any]], None],
        clock: AwakeClock,
    ) -> None:
        self._launcher = launcher
        self._hang_timeout, self._max_restarts = settings.hang_timeout, settings.max_restarts
        self._far_unrolls = FAR_STEPS / settings.unroll_length
        self._notice, self._now = notice, clock.now
        self._slots: dict[int, Slot[P]] = {}
        self._told_of_twins = False
        self.ending = False
        self.restarts = 0

    @property
    def children(self) -> list[P]:
        """All processes of the pool."""
        return [slot.child for slot in self._slots.values() if slot.child is not None]

    def restarts_of(self, number: int) -> int:
        """The number of restarts of one actor."""
        return self._slots[number].restarts

    def follow(self, desired: int, numbers: Iterable[int] | None = None) -> None:
        """Set the target number of actors. Actors with the highest numbers are stopped first.

        Args:
            desired: the target number.
            numbers: the numbers that more actors may get, in this order; None for 0, 1, 2, and so on.
        """
        if self.ending:
            return
        kept = sorted(number for number, slot in self._slots.items() if slot.leave_by is None)[:desired]
        free = (number for number in (itertools.count() if numbers is None else numbers) if number not in kept)
        wanted = {*kept, *itertools.islice(free, desired - len(kept))}
        for number in wanted:
            slot = self._slots.setdefault(number, Slot())
            if slot.child is None:
                slot.leave_by = None
        for number, slot in self._slots.items():
            if number not in wanted and slot.leave_by is None:
                slot.leave_by = self._now() + LEAVE_WITHIN_S
                if slot.child is not None:
                    slot.child.terminate()

    def heard(self, actors: Sequence[Mapping[str, Any]]) -> None:
        """Read the hub's list of actors, which shows whether they make progress between restarts."""
        for entry in actors:
            slot = self._slots.get(entry["actor_id"])
            if slot is None:
                continue
            if entry["incarnation"] > slot.incarnation:
                slot.incarnation = entry["incarnation"]
                self._notice("actor_joined", "", {"actor": entry["actor_id"], "incarnation": slot.incarnation})
            self._note_work(slot, entry.get("unrolls", 0))
            self._note_silence(slot, entry)
            self._note_twin(entry)

    def _note_work(self, slot: Slot[P], unrolls: int) -> None:
        """Forget earlier failures, once for each incarnation that has worked. It may have ended and been restarted already."""
        if unrolls and slot.productive < slot.incarnation:
            slot.productive, slot.fruitless = slot.incarnation, 0
        if unrolls >= self._far_unrolls and slot.far < slot.incarnation:
            slot.far, slot.same_errors = slot.incarnation, 0

    def _note_silence(self, slot: Slot[P], entry: Mapping[str, Any]) -> None:
        missed = slot.incarnation > slot.since and not entry.get("alive", True) and not entry.get("left", False)
        if not missed:
            slot.silent_since = None
        elif slot.silent_since is None:
            slot.silent_since = self._now()

    def _note_twin(self, entry: Mapping[str, Any]) -> None:
        """Report once that two actors' environments started with the same observations."""
        if "began_like" in entry and not self._told_of_twins:
            self._told_of_twins = True
            actors = sorted((entry["actor_id"], entry["began_like"]))
            self._notice("equal_streams", f"actors {actors[0]} and {actors[1]} {EQUAL_STREAMS}", {"actors": actors})

    def turn(self) -> None:
        """Start, restart or kill actors as needed.

        Raises:
            ActorGivenUpError: if an actor dies again and again without progress.
        """
        now = self._now()
        self._launcher.reap(self.children)  # one search for all processes that have ended
        for number, slot in self._slots.items():
            if slot.child is not None and slot.child.exit_code is not None:
                self._ended(number, slot, slot.child)
            if slot.child is None and self._wanted(slot) and now >= slot.due:
                if slot.left is None:
                    self._begin(number, slot)
                else:  # the run continues, so the actor was not asked to stop: treat it as crashed
                    self._ended(number, slot, slot.left)
            if slot.child is not None:
                self._end_if_overdue(number, slot, slot.child, now)

    def end(self, grace_s: float) -> None:
        """Ask all actors to stop, and kill those that still run after `grace_s` seconds."""
        self.ending = True
        self._launcher.end_all(self.children, grace_s=grace_s)
        self.turn()

    def all_gone(self) -> bool:
        """Whether every process has ended."""
        return all(child.exit_code is not None for child in self.children)

    def _end_if_overdue(self, number: int, slot: Slot[P], child: P, now: float) -> None:
        """Kill an actor that does not stop in time or has been silent for too long."""
        if slot.leave_by is not None and now > slot.leave_by:
            child.kill()
        elif slot.silent_since is not None and now - slot.silent_since > self._hang_timeout + HUNG_SLACK_S:
            silent_s = now - slot.silent_since
            slot.hung = f"was silent for {silent_s:.0f} s (actors.hang_timeout={self._hang_timeout:g}) and was killed"
            self._notice("actor_hung", "", {"actor": number, "pid": child.pid, "silent_s": round(silent_s, 1)})
            child.kill()

    def _wanted(self, slot: Slot[P]) -> bool:
        return slot.leave_by is None and not self.ending

    def _begin(self, number: int, slot: Slot[P]) -> None:
        slot.since, slot.silent_since, slot.hung = slot.incarnation, None, ""
        slot.child = self._launcher.start_actor(number)

    def _ended(self, number: int, slot: Slot[P], child: P) -> None:
        self._launcher.reap([child])
        slot.child = None
        how = slot.hung or child.ending
        values = {"actor": number, "pid": child.pid, "how": how}
        if not self._wanted(slot):
            self._notice("actor_left", "", values)
            return
        if child.exit_code == 0 and not slot.left:
            slot.left = child
            self._notice("actor_left", "", values)
            slot.due = self._now() + LEFT_BACK_OFF_S
            return
        slot.left = None
        self._note_error(slot, child)
        unasked = " without being asked to stop" if child.exit_code == 0 else ""
        reason = f"actor {number} {how}{unasked}{f': {child.error}' if child.error else ''}"
        if (why := self._hopeless(slot, child, reason)) is not None:
            self._notice("actor_failed", "", values | {"restarts": slot.restarts, "error": child.error})
            raise ActorGivenUpError(child, why)
        wait = back_off(slot.fruitless)  # 0 for an actor that made progress
        slot.fruitless += 1
        slot.restarts += 1
        self.restarts += 1
        slot.due = self._now() + wait
        values |= {"restarts": slot.restarts, "error": child.error}
        self._notice("actor_restarted", f"{reason}; restarting in {wait:g} s", values)

    def _hopeless(self, slot: Slot[P], child: P, reason: str) -> str | None:
        """Why an actor that has ended for this reason is not restarted; None if it is."""
        if child.exit_code == BAD_INPUT and not any(other.incarnation for other in self._slots.values()):
            return child.error or reason
        if slot.same_errors >= SAME_ERRORS:
            before = SAME_ERRORS - 1
            return f"{reason}; so did the {before} processes before it, and none had collected {FAR_STEPS:,} steps"
        if slot.fruitless >= self._max_restarts:
            return f"{reason}; it was restarted {slot.fruitless} times in a row without a complete unroll in between"
        return None

    def _note_error(self, slot: Slot[P], child: P) -> None:
        """Count the processes in a row with the same error of the user's code or settings. Another one would fail, too."""
        error = child.error or "" if child.exit_code in {BAD_INPUT, USER_CODE_FAILED} else ""
        before = slot.same_errors if error == slot.error else 0
        slot.error, slot.same_errors = error, before + 1 if error and slot.far <= slot.since else 0


def numbers_outside(machines: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """The numbers that the actors of machines that have joined do not have.

    Args:
        machines: the machines in the hub's status.
    """
    taken = [range(machine["first"], machine["first"] + machine["actors"]) for machine in machines]
    return (number for number in itertools.count() if not any(number in numbers for numbers in taken))


class ActorGivenUpError(RunError):
    """An actor was restarted too often without progress.

    Attributes:
        child: the actor's last process.
    """

    def __init__(self, child: Process, message: str) -> None:
        super().__init__(message)
        self.child = child
