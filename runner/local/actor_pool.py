"""The actors of a local run: as many as are desired, started again when they die, given up when that leads nowhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oatmill.errors import RunError
from oatmill.process.awake_clock import AwakeClock
from oatmill.process.exit_codes import BAD_INPUT
from runner.local.back_off import back_off
from runner.local.child import Child, end_all, end_families_of

"""The exit code of a process that cannot do what was asked; starting it again would not help."""
HUNG_SLACK_S = 10.0
"""An actor ends itself after `actors.hang_timeout` and says where it hung; one that has not done so by now cannot."""
LEFT_BACK_OFF_S = 2.0
"""An actor that has left in order is started again only after the supervisor has had time to hear of a stop."""
LEAVE_WITHIN_S = 10.0
"""An actor that is to leave finishes its unroll, hands it over and goes; after this long it is killed."""


@dataclass
class Post:
    """One actor's place.

    Attributes:
        child: the process; None between two.
        left: a process that has ended as if it had been asked to, until it is known whether the run ends.
        restarts: how often it was started again, in all.
        fruitless: how often in a row without a step in between.
        due: when the next process is started, by the monotonic clock.
        incarnation: the highest that the hub has shown for this place.
        since: the incarnation shown when the process was started.
        productive: whether the hub has seen steps of the process.
        silent_since: when the hub began to miss it; None while it is heard.
        leave_by: when it has to be gone; None while it is wanted.
        hung: why it was killed, if it was taken for hung.
    """

    child: Child | None = None
    left: Child | None = None
    restarts: int = 0
    fruitless: int = 0
    due: float = 0.0
    incarnation: int = 0
    since: int = 0
    productive: bool = False
    silent_since: float | None = None
    leave_by: float | None = None
    hung: str = ""


class Crew:
    """Keeps the desired number of actors at work.

    Args:
        start: starts the actor of a number.
        max_restarts: restarts in a row without progress before the run ends.
        hang_timeout: seconds for which an env step or a reset may take; an actor that the hub misses for longer is killed.
        notice: is told of what happens: an event's name, a line for people, and values.
        clock: by which silence is measured.
    """

    def __init__(
        self,
        start: Callable[[int], Child],
        *,
        max_restarts: int,
        hang_timeout: float,
        notice: Callable[[str, str, Mapping[str, Any]], None],
        clock: AwakeClock,
    ) -> None:
        self._start = start
        self._hang_timeout, self._now = hang_timeout, clock.now
        self._max_restarts = max_restarts
        self._notice = notice
        self._posts: dict[int, Post] = {}
        self.ending = False
        self.restarts = 0

    @property
    def children(self) -> list[Child]:
        """The processes there are."""
        return [post.child for post in self._posts.values() if post.child is not None]

    def restarts_of(self, number: int) -> int:
        """How often one actor was started again."""
        return self._posts[number].restarts

    def follow(self, desired: int) -> None:
        """Start or let go actors until there are `desired`; those with the highest numbers go first."""
        if self.ending:
            return
        for number in range(desired):
            post = self._posts.get(number)
            if post is None:
                self._posts[number] = Post()
            elif post.leave_by is not None and post.child is None:
                post.leave_by = None
        for number, post in self._posts.items():
            if number >= desired and post.leave_by is None:
                post.leave_by = self._now() + LEAVE_WITHIN_S
                if post.child is not None:
                    post.child.terminate()

    def heard(self, actors: Sequence[Mapping[str, Any]]) -> None:
        """Take in what the hub knows of each actor, so that progress is told from restarts that lead nowhere."""
        for entry in actors:
            post = self._posts.get(entry["actor_id"])
            if post is None:
                continue
            if entry["incarnation"] > post.incarnation:
                post.incarnation = entry["incarnation"]
                self._notice("actor_joined", "", {"actor": entry["actor_id"], "incarnation": post.incarnation})
            post.productive = post.incarnation > post.since and entry.get("env_steps", 0) > 0
            self._note_silence(post, entry)

    def _note_silence(self, post: Post, entry: Mapping[str, Any]) -> None:
        missed = post.incarnation > post.since and not entry.get("alive", True) and not entry.get("left", False)
        if not missed:
            post.silent_since = None
        elif post.silent_since is None:
            post.silent_since = self._now()

    def turn(self) -> None:
        """Look after every place once.

        Raises:
            RunError: if an actor dies again and again without a step in between.
        """
        now = self._now()
        end_families_of(self.children)  # one search for all, where many have ended
        for number, post in self._posts.items():
            if post.child is not None and post.child.exit_code is not None:
                self._ended(number, post, post.child)
            if post.child is None and self._wanted(post) and now >= post.due:
                if post.left is None:
                    self._begin(number, post)
                else:  # the run goes on, so nobody had asked it to leave: it counts as any other that ended
                    self._ended(number, post, post.left)
            if post.child is not None:
                self._end_if_overdue(number, post, post.child, now)

    def end(self, grace_s: float) -> None:
        """Ask all to leave and wait, for a bounded time; none is started again."""
        self.ending = True
        end_all(self.children, grace_s=grace_s)
        self.turn()

    def all_gone(self) -> bool:
        """Whether no process is left."""
        return all(child.exit_code is not None for child in self.children)

    def _end_if_overdue(self, number: int, post: Post, child: Child, now: float) -> None:
        """Kill it if it should have gone, or has been silent, for too long."""
        if post.leave_by is not None and now > post.leave_by:
            child.kill()
        elif post.silent_since is not None and now - post.silent_since > self._hang_timeout + HUNG_SLACK_S:
            silent_s = now - post.silent_since
            post.hung = f"was silent for {silent_s:.0f} s (actors.hang_timeout={self._hang_timeout:g}) and was killed"
            self._notice("actor_hung", "", {"actor": number, "pid": child.pid, "silent_s": round(silent_s, 1)})
            child.kill()

    def _wanted(self, post: Post) -> bool:
        return post.leave_by is None and not self.ending

    def _begin(self, number: int, post: Post) -> None:
        post.since, post.productive, post.silent_since, post.hung = post.incarnation, False, None, ""
        post.child = self._start(number)

    def _ended(self, number: int, post: Post, child: Child) -> None:
        end_families_of([child])
        post.child = None
        how = post.hung or child.ending
        values = {"actor": number, "pid": child.pid, "how": how}
        if not self._wanted(post):
            self._notice("actor_left", "", values)
            return
        if child.exit_code == 0 and not post.left:
            post.left = child
            self._notice("actor_left", "", values)
            post.due = self._now() + LEFT_BACK_OFF_S
            return
        post.left = None
        post.fruitless = 0 if post.productive else post.fruitless
        if child.exit_code == BAD_INPUT and not any(other.incarnation for other in self._posts.values()):
            raise ActorGivenUpError(child, child.error or f"actor {number} {child.ending}")
        unasked = " although nobody asked it to leave" if child.exit_code == 0 else ""
        reason = f"actor {number} {how}{unasked}{f': {child.error}' if child.error else ''}"
        if post.fruitless >= self._max_restarts:
            raise ActorGivenUpError(
                child, f"{reason}; it was restarted {post.fruitless} times in a row without a step in between"
            )
        wait = back_off(post.fruitless)  # none for one that did its work until it died
        post.fruitless += 1
        post.restarts += 1
        self.restarts += 1
        post.due = self._now() + wait
        self._notice("actor_restarted", f"{reason}; it is started again in {wait:g} s", values | {"restarts": post.restarts})


class ActorGivenUpError(RunError):
    """An actor dies again and again.

    Attributes:
        child: its last process.
    """

    def __init__(self, child: Child, message: str) -> None:
        super().__init__(message)
        self.child = child
