"""Whose a connection's key is and what that one may do, asked for every message, so that a revoked key is out at once.

libzmq asks for a key only while a connection is made and keeps that connection for ever after; it hands out the key with every
message (its `User-Id`), which is looked up here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from protocol.errors import UserError, WireError
from protocol.keys import SERVER, ServerKeys, read_key, trusted_files

_log = logging.getLogger("oatmill.auth")


@dataclass(frozen=True, slots=True)
class User:
    """The holder of a key.

    Attributes:
        name: the key's name, such as `actor-east`.
        role: what it may speak as.
    """

    name: str
    role: str


ANYBODY = User("", "anybody")
"""Everyone, on a server without keys."""
REVOKED = User("", "revoked")
"""Whoever holds a key that is not, or no longer, trusted."""


class UnauthorisedError(WireError):
    """A message that its sender may not send: `role`, `revoked` or `identity`."""


def require(user: User, *roles: str) -> None:
    """Let only the holders of some roles' keys pass; on a server without keys everyone does.

    Raises:
        UnauthorisedError: `role` or `revoked`.
    """
    if user is ANYBODY or user.role in roles:
        return
    if user is REVOKED:
        raise UnauthorisedError("revoked", "this key is trusted no more")
    raise UnauthorisedError("role", f"expected the key of {' or '.join(roles)}, got {user.name}")


class TrustedKeys:
    """The public keys in a folder, by whom they belong to. `refresh` replaces the table whole, so any thread may look.

    Args:
        keys: the server's.
    """

    def __init__(self, keys: ServerKeys) -> None:
        self._folder = keys.trusted
        self._own = {keys.public.decode(): User(SERVER, SERVER)}
        self._users: Mapping[str, User] = MappingProxyType(self._own)
        self._seen: object = None
        self.refresh()

    def user(self, public: str) -> User:
        """Whose key this is; REVOKED if it is nobody's.

        Args:
            public: Z85.
        """
        return self._users.get(public, REVOKED)

    def trusts(self, public: str) -> bool:
        """Whether this key may connect."""
        return public in self._users

    def refresh(self) -> None:
        """Read the folder again if something in it has changed; one that cannot be read trusts nobody but the server."""
        try:
            files = trusted_files(self._folder)
            seen: object = [(path.name, *_state(path)) for path in files]
        except OSError as error:
            files, seen = [], error.errno
            if seen != self._seen:
                _log.error("%s cannot be read (%s): no key is trusted", self._folder, error.strerror)
        if seen == self._seen:
            return
        users = dict(self._own)
        for path in files:
            try:
                users[read_key(path).decode()] = User(path.stem, path.stem.partition("-")[0])
            except UserError as error:
                _log.error("%s; it is passed over", error)
        self._users, self._seen = MappingProxyType(users), seen
        _log.info("trusted keys: %s", ", ".join(sorted(user.name for user in users.values())))


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
