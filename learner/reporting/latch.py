"""What a rule says about one report, and when that raises or clears its red flag (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field

CLEAR_AFTER = 10
"""A flag is cleared after this many reports in a row that are well within its bound."""


@dataclass(frozen=True)
class Finding:
    """What a rule says about one report.

    Attributes:
        why: the reason in one line, if the report is beyond the rule's bound; else empty.
        near: whether the report is within the bound but close to it. It neither raises a flag nor counts towards clearing it.
        losses: the losses that are to blame, each with the reason.
    """

    why: str = ""
    near: bool = False
    losses: dict[str, str] = field(default_factory=dict)


@dataclass
class Latch:
    """One red flag, with hysteresis: it takes several reports in a row to raise it, and several to clear it.

    Attributes:
        raised: the newest reason; empty while the flag is not raised.
        streak: reports in a row that speak for a change.
    """

    raised: str = ""
    streak: int = 0

    def update(self, finding: Finding, raise_after: int) -> str:
        """Take a report's finding in, and return the flag's reason, empty while it is not raised.

        Args:
            finding: of this report.
            raise_after: the number of findings in a row that raise the flag.
        """
        was_raised = bool(self.raised)
        speaks_for_change = not finding.why and not finding.near if was_raised else bool(finding.why)
        self.streak = self.streak + 1 if speaks_for_change else 0
        if was_raised:
            self.raised = "" if self.streak >= CLEAR_AFTER else finding.why or self.raised
        elif self.streak >= raise_after:
            self.raised = finding.why
        if bool(self.raised) != was_raised:
            self.streak = 0
        return self.raised
