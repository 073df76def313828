"""Passes a run's events on to the user and to files, and counts reports, which show progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from oatmill.files.json_lines import JsonLines
from oatmill.files.run_files import EVENTS_FILE
from runner.folder import RunFolder
from runner.observer import Observer


class Reporter(Protocol):
    """Receives a run's events and status."""

    @property
    def reports(self) -> int:
        """The number of reported learner steps so far; an increase means progress."""
        ...

    def event(self, event: str, text: str, values: Mapping[str, Any]) -> None:
        """Pass on an event.

        Args:
            event: the event's name, such as `actor_restarted`.
            text: a line for the user; empty for none.
            values: the event's details.
        """
        ...

    def failed(self, name: str, last_lines: Sequence[str]) -> None:
        """Report that the run fails because a process has ended.

        Args:
            name: the process's name.
            last_lines: the last lines of its output.
        """
        ...

    def heard(self, status: Mapping[str, Any]) -> None:
        """Read the hub's status."""
        ...

    def pass_on(self) -> None:
        """Pass on the learner's new reports. May block on a user's observer."""
        ...


class FolderReporter:
    """Reads the learner's reports from the run folder, writes events to it, and calls an observer.

    Args:
        folder: the run folder.
        observer: receives reports and events.
    """

    def __init__(self, folder: RunFolder, observer: Observer) -> None:
        self._folder, self._observer = folder, observer
        self.lines = JsonLines(folder.metrics)
        self._events = JsonLines(folder.path / EVENTS_FILE)

    @property
    def reports(self) -> int:
        """See Reporter."""
        return self.lines.count

    def event(self, event: str, text: str, values: Mapping[str, Any]) -> None:
        """See Reporter."""
        self._folder.event(event, **values)
        if text:
            self._observer.noted(text)

    def failed(self, name: str, last_lines: Sequence[str]) -> None:
        """See Reporter."""
        self._observer.failed(name, last_lines)

    def heard(self, status: Mapping[str, Any]) -> None:
        """See Reporter. Does nothing, because the run folder has all information."""

    def pass_on(self) -> None:
        """See Reporter."""
        for line in self.lines.new():
            self._observer.reported(line)
        for event in self._events.new():
            if "text" in event:  # events of the learner: a skipped batch, a rewind, a failed checkpoint
                self._observer.noted(event["text"])


class LineReporter:
    """Prints events as lines of text, and counts progress with the hub's status. It needs no run folder.

    Args:
        say: called with each line.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._learner_step = 0
        self.reports = 0

    def event(self, _event: str, text: str, _values: Mapping[str, Any]) -> None:
        """See Reporter."""
        if text:
            self._say(text)

    def failed(self, name: str, last_lines: Sequence[str]) -> None:
        """See Reporter."""
        if last_lines:
            self._say(f"the last lines of {name}:")
        for line in last_lines:
            self._say(f"  {line}")

    def heard(self, status: Mapping[str, Any]) -> None:
        """See Reporter. After a restart the learner step may be lower; only an increase is progress."""
        step = status["learner"].get("learner_step")
        if step is not None:
            self.reports += step > self._learner_step
            self._learner_step = step

    def pass_on(self) -> None:
        """See Reporter. Does nothing: the learner's reports stay in the run folder."""
