"""The errors of oatmill, one tree.

OatmillError
├── UserError                 the request cannot be carried out: exit code 2, one line
│   └── SettingsError         a setting is unknown, of the wrong type or out of bounds (also a ValueError)
├── RunError                  the run had started and failed: exit code 1, one line
│   ├── JoinRefusedError      the run's server refused this process, with its reason
│   │   └── NotLetInError     it never let this process's connection in: a key is wrong or missing
│   └── PeerLostError         a peer that should answer has been silent past its deadline
└── WireError                 bytes from a peer break the protocol; carries the reason code that is counted

Every message says what was expected, what came, and the way out.
"""

from __future__ import annotations

from oatmill.children.places import place_of
from oatmill.process.exit_codes import BAD_INPUT, FAILED


class OatmillError(Exception):
    """The root of every error that oatmill raises on purpose."""

    exit_code = FAILED


class UserError(OatmillError):
    """The user's request cannot be carried out; nothing was started."""

    exit_code = BAD_INPUT


class SettingsError(UserError, ValueError):
    """A setting is unknown, has the wrong type or is out of bounds."""


class RunError(OatmillError):
    """A run that had started has failed."""


class JoinRefusedError(RunError):
    """The run's server refused this process."""


class NotLetInError(JoinRefusedError):
    """A key is wrong or missing.

    A role ends with exit code 1, for it is started again, and the key may be good by then. A question that a person asks of a
    run, such as `oatmill status`, is bad input: exit code 2.
    """


class PeerLostError(RunError):
    """A peer that should answer has been silent past its deadline."""


class WireError(OatmillError):
    """Bytes from a peer break the protocol.

    Attributes:
        reason: a short code from a closed set, used as the `reason` of a counter.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def one_line(error: BaseException) -> str:
    """An error's type and message without line breaks, with the line of the user's code that raised it, if there is one."""
    place = place_of(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}{f' ({place})' if place else ''}"
