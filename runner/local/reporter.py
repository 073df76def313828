"""What a supervisor tells about its run, and how it knows that training makes progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from runner.folder import RunFolder
from runner.json_lines import JsonLines
from runner.observer import Observer


class Reporter(Protocol):
    """Passes on what happens to a run."""

    @property
    def reports(self) -> int:
        """Learner steps that the run has reported so far. More of them mean progress."""
        ...

    def event(self, event: str, text: str, values: Mapping[str, Any]) -> None:
        """Something happened.

        Args:
            event: its name, such as `actor_restarted`.
            text: a line for people; empty for none.
            values: its details.
        """
        ...

    def failed(self, name: str, last_lines: Sequence[str]) -> None:
        """The end of a process ends the run.

        Args:
            name: of the process.
            last_lines: of its output.
        """
        ...

    def heard(self, status: Mapping[str, Any]) -> None:
        """Take in the hub's status."""
        ...

    def pass_on(self) -> None:
        """Pass on the learner's new reports. May wait for whoever reads them."""
        ...


class FolderReporter:
    """Reads the learner's reports in the run folder, writes events there, and tells an observer.

    Args:
        folder: of the run.
        observer: is told what happens.
    """

    def __init__(self, folder: RunFolder, observer: Observer) -> None:
        self._folder, self._observer = folder, observer
        self.lines = JsonLines(folder.metrics)
        self._events = JsonLines(folder.path / "events.jsonl")

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
        """See Reporter. The run folder says all that there is to say."""

    def pass_on(self) -> None:
        """See Reporter."""
        for line in self.lines.new():
            self._observer.reported(line)
        for event in self._events.new():
            if "text" in event:  # events of the learner: a skipped batch, a rewind, a failed checkpoint
                self._observer.noted(event["text"])


class LineReporter:
    """Tells people what happens, a line each. Progress is what the hub says: the run folder may be on another machine.

    Args:
        say: is given the lines.
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
        """See Reporter. A restarted learner begins at an earlier learner step: only a higher step than before is progress."""
        step = status["learner"].get("learner_step")
        if step is not None:
            self.reports += step > self._learner_step
            self._learner_step = step

    def pass_on(self) -> None:
        """See Reporter. The learner's reports stay in the run folder."""
