"""The errors of oatmill, as one tree.

    OatmillError
    ├── UserError               the request cannot be carried out: exit code 2, one line
    │   └── SettingsError       a setting is unknown, has the wrong type or is out of bounds (also a ValueError)
    ├── RunError                the run had started and failed: exit code 1, one line
    │   ├── JoinRefusedError    the run's server rejected this process, with its reason
    │   │   └── NotLetInError   the server never accepted this process's connection: a key is wrong or missing
    │   ├── PeerLostError       a peer did not answer before its deadline
    │   ├── RankStoppedError    another learner rank was asked to stop: exit code 75, one line
    │   └── UserCodeError       the user's code, such as an environment, failed during the run: exit code 72, one line
    └── WireError               bytes from a peer break the protocol; has the reason code that is counted

Every message says what was expected, what came, and what to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from oatmill.process.exit_codes import BAD_INPUT, FAILED, RANK_STOPPED, USER_CODE_FAILED
from oatmill.user_code import place_of


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
    """The run's server rejected this process."""


class NotLetInError(JoinRefusedError):
    """A key is wrong or missing.

    A role ends with exit code 1, because it is restarted, and the key may be valid by then. For a
    command such as `oatmill status`, it is bad input: exit code 2.
    """


class PeerLostError(RunError):
    """A peer did not answer before its deadline."""


class RankStoppedError(RunError):
    """Another learner rank was asked to stop, and this one was not: it starts again with the other one."""

    exit_code = RANK_STOPPED


class UserCodeError(RunError):
    """The user's code, such as an environment, raised an exception or broke a promise while a process of a run used it."""

    exit_code = USER_CODE_FAILED


class WireError(OatmillError):
    """Bytes from a peer break the protocol.

    Attributes:
        reason: a code from `protocol.wire.reasons`, used as the label `reason` of a counter.
        detail: what was expected and what came.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@contextlib.contextmanager
def asked_by(setting: str) -> Iterator[None]:
    """Put the name of a setting before each UserError of the `with` block, which reads what the setting names."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{setting}: {error}") from error


def one_line(error: BaseException) -> str:
    """Return an error's type and message in one line, and the line of the user's code that raised it."""
    place = place_of(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}{f' ({place})' if place else ''}"
