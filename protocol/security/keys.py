"""CURVE key pairs as files. Each role has its own folder, so that it can be mounted by that role alone.

    DIR/server/    secret.key  server.pub  trusted/learner.pub  trusted/actor.pub
    trusted/operator.pub
    DIR/learner/   secret.key  server.pub
    DIR/actor/     secret.key  server.pub
    DIR/operator/  secret.key  server.pub

A file contains one key as 40 characters of Z85 and a line break. Folders have mode 0700, files
0600. The keys in `server/trusted` are trusted. The name of a file there is the name of the key, and
the part before its first `-` is the role that it belongs to: `actor-east.pub` is another key for
actors. Nothing here prints, logs or shows a secret key.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from struct import error as struct_error

import zmq
from zmq.utils import z85

from oatmill.errors import UserError

SERVER = "server"
CLIENTS = ("learner", "actor", "operator")
"""The roles that connect to the server. The supervisor of a run on one machine is an operator."""
SECRET, SERVER_PUBLIC, TRUSTED = "secret.key", "server.pub", "trusted"
PUBLIC_SUFFIX = ".pub"
KEY_LENGTH = 40
NAME = re.compile(rf"^(?P<role>{'|'.join(CLIENTS)})(-[a-z0-9][a-z0-9-]{{0,31}})?$")
OTHERS = stat.S_IROTH | stat.S_IWOTH


@dataclass(frozen=True)
class ClientKeys:
    """The keys of a process that connects to the server.

    Attributes:
        public: its public key, Z85.
        secret: its secret key; not shown by `repr`.
        server: the server's public key.
    """

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes


@dataclass(frozen=True)
class ServerKeys:
    """The keys of the replay server.

    Attributes:
        public: its public key, Z85.
        secret: its secret key; not shown by `repr`.
        trusted: the folder of the public keys that may connect.
    """

    public: bytes
    secret: bytes = field(repr=False)
    trusted: Path

    def as_client(self) -> ClientKeys:
        """Return keys for the server's own processes, which connect to its sockets, too."""
        return ClientKeys(self.public, self.secret, self.public)


def new_keys(server: bytes) -> ClientKeys:
    """Create a key pair that is not written anywhere.

    Args:
        server: the server's public key.
    """
    public, secret = zmq.curve_keypair()
    return ClientKeys(public, secret, server)


# -------------------------------------------------------------------------------------------------------------- making


def make_keys(folder: Path) -> None:
    """Create the keys of all four roles.

    Args:
        folder: a new or empty folder, or one with empty folders for the roles.

    Raises:
        UserError: if it already contains keys, which another run may trust, or cannot be written
            to.
    """
    found = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*"))
    if found:
        raise UserError(
            f"{folder} already contains {found[0]}, and keys are never overwritten; choose a new folder, or remove this one"
        )
    try:
        public, secret = zmq.curve_keypair()
        server = _private_folder(folder / SERVER)
        _private_folder(server / TRUSTED)
        _write(server / SERVER_PUBLIC, public)
        for name in CLIENTS:
            _make_client(folder, name, public)
        _write(server / SECRET, secret)  # last: it marks the folder as complete
    except OSError as error:
        raise _unwritable(folder, error) from None


def add_key(folder: Path, name: str) -> None:
    """Create another client key, and trust it.

    Args:
        folder: the folder of `make_keys`.
        name: a role, a dash and a word, such as `actor-east`; or a role whose key was revoked.

    Raises:
        UserError: if the name is invalid or taken, or the folder contains no keys or cannot be
            written to.
    """
    if not NAME.match(name):
        raise UserError(
            f"expected a key's name such as actor-east ({', '.join(CLIENTS)}, a dash and a-z, 0-9 or -), got {name!r}"
        )
    if (folder / name / SECRET).exists() or (folder / SERVER / TRUSTED / f"{name}{PUBLIC_SUFFIX}").exists():
        raise UserError(f"{folder} already contains a key named {name}; choose another name, or revoke and remove that key")
    public = read_key(folder / SERVER / SERVER_PUBLIC)
    try:
        _make_client(folder, name, public)
    except OSError as error:
        raise _unwritable(folder, error) from None


def revoke_key(folder: Path, name: str) -> None:
    """Stop trusting a client's key. A running server notices this within a second.

    Args:
        folder: the folder of `make_keys`, or its folder `server`.
        name: the key's name.

    Raises:
        UserError: if no such key is trusted, or the folder cannot be written to.
    """
    trusted = next((path for path in (folder / SERVER / TRUSTED, folder / TRUSTED) if path.is_dir()), None)
    if trusted is None:
        raise UserError(f"{folder} has no folder {SERVER}/{TRUSTED}; expected a folder that `oatmill keygen` created")
    names = [path.stem for path in trusted_files(trusted)]
    if name not in names:
        raise UserError(f"no key named {name!r} is trusted; trusted keys: {', '.join(names) or 'none'}")
    try:
        (trusted / f"{name}{PUBLIC_SUFFIX}").unlink()
    except OSError as error:
        raise _unwritable(folder, error) from None


def is_complete(folder: Path) -> bool:
    """Whether `make_keys` has finished in this folder."""
    return (folder / SERVER / SECRET).is_file()


def _make_client(folder: Path, name: str, server: bytes) -> None:
    keys = new_keys(server)
    own = _private_folder(folder / name)
    _write(own / SERVER_PUBLIC, server)
    _write(own / SECRET, keys.secret)
    _write(folder / SERVER / TRUSTED / f"{name}{PUBLIC_SUFFIX}", keys.public)


def _private_folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def _write(path: Path, key: bytes) -> None:
    """Write a file atomically; never overwrite an existing one."""
    working = path.with_name(f".{path.name}.tmp")
    working.unlink(missing_ok=True)
    with os.fdopen(os.open(working, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key + b"\n")
    os.link(working, path)
    working.unlink()


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder} cannot be written to: {error.strerror}; choose another folder, or change its permissions")


# ------------------------------------------------------------------------------------------------------------- reading


def client_keys(path: Path | None, role: str) -> ClientKeys | None:
    """Read the keys of a process that connects; None without a path.

    Args:
        path: the role's own folder, or the folder that contains it.
        role: one of CLIENTS.

    Raises:
        UserError: if the keys are missing or invalid, or other users can read them.
    """
    if path is None:
        return None
    folder = _folder_of(path, role)
    secret = _read_secret(folder / SECRET)
    return ClientKeys(zmq.curve_public(secret), secret, read_key(folder / SERVER_PUBLIC))


def server_keys(path: Path | None) -> ServerKeys | None:
    """Read the keys of the replay server; None without a path. Arguments and errors as in `client_keys`."""
    if path is None:
        return None
    folder = _folder_of(path, SERVER)
    if not (folder / TRUSTED).is_dir():
        raise UserError(f"--keys {path} has no folder {TRUSTED}, which the replay server needs; give it the folder {SERVER}")
    secret = _read_secret(folder / SECRET)
    return ServerKeys(zmq.curve_public(secret), secret, folder / TRUSTED)


def trusted_files(folder: Path) -> list[Path]:
    """Return the files in a folder of trusted keys whose names are valid names of keys, in order."""
    return sorted(path for path in folder.iterdir() if path.suffix == PUBLIC_SUFFIX and NAME.match(path.stem))


def read_key(path: Path) -> bytes:
    """Read one key.

    Raises:
        UserError: if the file cannot be read or contains anything else; its content is not shown.
    """
    try:
        key = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; expected a key that `oatmill keygen` created") from None
    return key_in(key, path)


def key_in(content: bytes, path: Path) -> bytes:
    """Return the key in the content of a file.

    Raises:
        UserError: if it contains anything else; its content is not shown.
    """
    key = content.strip()
    if not is_key(key):
        raise UserError(
            f"{path} does not contain a key; expected {KEY_LENGTH} characters of Z85, as `oatmill keygen` writes them"
        )
    return key


def is_key(key: bytes) -> bool:
    """Whether the bytes are a key: 32 bytes in Z85."""
    try:
        return len(key) == KEY_LENGTH and len(z85.decode(key)) == KEY_LENGTH * 4 // 5
    except (KeyError, ValueError, OverflowError, struct_error):
        return False


def _folder_of(path: Path, role: str) -> Path:
    for folder in (path / role, path):
        with contextlib.suppress(OSError):  # no permission to enter the folder
            if (folder / SECRET).exists():
                return folder
    raise UserError(f"--keys {path} has neither {SECRET} nor {role}/{SECRET}; create keys with: oatmill keygen {path}")


def _read_secret(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if mode & OTHERS:
        raise UserError(f"{path} can be read or changed by every user of this machine; protect it with: chmod 600 {path}")
    return read_key(path)
