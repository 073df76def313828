"""The owner of a connection's key, and what the owner may do.

libzmq checks a key only when a connection is made, and keeps that connection for ever after. But it
attaches the key to every message (its `User-Id`), so the key is looked up here for every message,
and revoking it works at once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from oatmill.errors import UserError, WireError
from protocol.security.keys import SERVER, ServerKeys, key_in, trusted_files

_log = logging.getLogger("oatmill.auth")


GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP})
"""Errors which show that a key, or the folder of all keys, was removed. Any other error, such as
too many open files, says nothing about the keys."""


@dataclass(frozen=True, slots=True)
class User:
    """The owner of a key.

    Attributes:
        name: the key's name, such as `actor-east`.
        role: the role that it may act as.
    """

    name: str
    role: str


ANYBODY = User("", "anybody")
"""The user of every connection, on a server without keys."""
REVOKED = User("", "revoked")
"""The user of a key that is not trusted (any more)."""


class UnauthorisedError(WireError):
    """A message that its sender is not allowed to send: `role`, `revoked` or `identity`."""


def require(user: User, *roles: str) -> None:
    """Check that a user has one of some roles. On a server without keys, everybody passes.

    Raises:
        UnauthorisedError: `role` or `revoked`.
    """
    if user is ANYBODY or user.role in roles:
        return
    if user is REVOKED:
        raise UnauthorisedError("revoked", "this key is no longer trusted")
    raise UnauthorisedError("role", f"expected the key of {' or '.join(roles)}, got {user.name}")


class TrustedKeys:
    """The public keys in a folder, and their owners.

    `refresh` replaces the whole table, so any thread may read it.

    Args:
        keys: the server's keys.
    """

    def __init__(self, keys: ServerKeys) -> None:
        self._folder = keys.trusted
        self._own = {keys.public.decode(): User(SERVER, SERVER)}
        self._users: Mapping[str, User] = MappingProxyType(self._own)
        self._seen: object = None
        self._failing: int | None = None  # the error that was logged
        self.refresh()

    def user(self, public: str) -> User:
        """Return the owner of a key; REVOKED if there is none.

        Args:
            public: the public key, Z85.
        """
        return self._users.get(public, REVOKED)

    def trusts(self, public: str) -> bool:
        """Whether this key may connect."""
        return public in self._users

    def refresh(self) -> None:
        """Read the folder again if something in it has changed.

        If the folder is missing, or this process may not read it, no key is trusted except the
        server's. If it cannot be read for another reason (no descriptors, no memory, a failing
        disk), the last table stays and the folder is read again next time.
        """
        try:
            seen: object = _look(self._folder)
            if seen != self._seen:
                self._replace(self._read(), seen)
            self._failing = None
        except OSError as error:
            if error.errno in GONE:
                self._take_away(error)
            else:
                self._keep(error)

    def _read(self) -> dict[str, User]:
        users = dict(self._own)
        for path in trusted_files(self._folder):
            try:
                users[key_in(path.read_bytes(), path).decode()] = User(path.stem, path.stem.partition("-")[0])
            except UserError as error:
                _log.error("%s; it is skipped", error)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                _log.error("%s cannot be read (%s); it is skipped", path, error.strerror)
        return users

    def _replace(self, users: Mapping[str, User], seen: object) -> None:
        self._users, self._seen = MappingProxyType(dict(users)), seen
        _log.info("trusted keys: %s", ", ".join(sorted(user.name for user in users.values())))

    def _take_away(self, error: OSError) -> None:
        if self._seen != error.errno:
            _log.error("%s cannot be read (%s): no key is trusted", self._folder, error.strerror)
            self._replace(self._own, error.errno)

    def _keep(self, error: OSError) -> None:
        if self._failing != error.errno:
            self._failing = error.errno
            _log.error(
                "%s cannot be read at the moment (%s): the keys trusted before stay trusted; trying again",
                self._folder,
                error.strerror,
            )


def _look(folder: Path) -> list[tuple[str, int, int, int]]:
    """Return values that change when something in the folder changes.

    A file that vanishes meanwhile is left out.
    """
    found = []
    for path in trusted_files(folder):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            found.append((path.name, state.st_mtime_ns, state.st_size, state.st_ino))
    return found
