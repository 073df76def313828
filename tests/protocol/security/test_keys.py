from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq

from deploy.cli.entry import run_command
from oatmill.errors import UserError
from protocol.security.keys import (
    CLIENTS,
    add_key,
    client_keys,
    is_complete,
    make_keys,
    new_keys,
    read_key,
    revoke_key,
    server_keys,
)


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_each_role_gets_a_private_folder_that_is_all_it_needs(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    folders = [path for path in (tmp_path / "keys").rglob("*") if path.is_dir()]
    assert sorted(path.name for path in folders) == ["actor", "learner", "operator", "server", "trusted"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").rglob("*.*")} == {0o600}
    server = server_keys(tmp_path / "keys" / "server")
    assert server is not None
    for role in CLIENTS:
        own = client_keys(tmp_path / "keys" / role, role)
        assert own is not None
        assert zmq.curve_public(own.secret) == own.public == read_key(server.trusted / f"{role}.pub")
        assert own.server == server.public
        assert client_keys(tmp_path / "keys", role) == own  # the folder above does as well


def test_all_keys_are_different(tmp_path: Path) -> None:
    make_keys(tmp_path)
    secrets = [content for name, content in every_file(tmp_path).items() if name.endswith("secret.key")]
    assert len(set(secrets)) == len(secrets) == 4


def test_keys_are_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["keygen", str(tmp_path)]) == 0
    before = every_file(tmp_path)
    assert run_command(["keygen", str(tmp_path)]) == 2
    assert "keys are never overwritten" in capsys.readouterr().err
    assert run_command(["keygen", str(tmp_path), "--if-missing"]) == 0
    assert every_file(tmp_path) == before
    with pytest.raises(UserError, match="already contains a key named actor"):
        add_key(tmp_path, "actor")


def test_an_incomplete_folder_is_not_considered_complete(tmp_path: Path) -> None:
    make_keys(tmp_path)
    (tmp_path / "server" / "secret.key").unlink()
    assert not is_complete(tmp_path)
    with pytest.raises(UserError, match=r"already contains actor/secret\.key"):
        make_keys(tmp_path)


def test_empty_role_folders_are_filled(tmp_path: Path) -> None:
    for role in ("server", *CLIENTS):
        (tmp_path / role).mkdir(mode=0o755)
    make_keys(tmp_path)
    assert is_complete(tmp_path)
    assert stat.S_IMODE((tmp_path / "actor").stat().st_mode) == 0o700


def test_no_secret_is_printed_or_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--if-missing"], ["--add", "actor-east"], ["--revoke", "actor"]):
        assert run_command(["keygen", str(tmp_path), *arguments]) == 0
    printed = "".join(capsys.readouterr())
    keys = [content.decode().strip() for content in every_file(tmp_path).values()]
    assert not [key for key in keys if key in printed]
    server, own = server_keys(tmp_path), client_keys(tmp_path, "learner")
    assert server is not None
    assert own is not None
    for holder in (server, own, server.as_client(), new_keys(server.public)):
        assert holder.secret.decode() not in repr(holder)


def test_a_key_is_added_and_revoked_by_its_name(tmp_path: Path) -> None:
    make_keys(tmp_path)
    add_key(tmp_path, "actor-east")
    own, server = client_keys(tmp_path / "actor-east", "actor"), server_keys(tmp_path)
    assert own is not None
    assert server is not None
    assert read_key(server.trusted / "actor-east.pub") == own.public
    revoke_key(tmp_path / "server", "actor-east")
    assert sorted(path.stem for path in server.trusted.iterdir()) == ["actor", "learner", "operator"]
    with pytest.raises(UserError, match="no key named 'actor-east' is trusted; trusted keys: actor, learner, operator"):
        revoke_key(tmp_path, "actor-east")


@pytest.mark.parametrize("name", ["server", "actors", "actor-", "actor-../x", "Actor", "actor-a.pub", "", "actor-" + "x" * 40])
def test_a_name_without_a_role_is_rejected(tmp_path: Path, name: str) -> None:
    make_keys(tmp_path)
    with pytest.raises(UserError, match="expected a key's name such as actor-east"):
        add_key(tmp_path, name)


@pytest.mark.parametrize("content", [b"", b"x" * 39, b"~" * 40, b"#" * 40, b"\xff" * 40, b"0" * 41])
def test_a_file_without_a_key_is_rejected_by_name_and_not_shown(tmp_path: Path, content: bytes) -> None:
    make_keys(tmp_path)
    path = tmp_path / "actor" / "secret.key"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        client_keys(tmp_path, "actor")
    assert str(caught.value) == f"{path} does not contain a key; expected 40 characters of Z85, as `oatmill keygen` writes them"


def test_a_secret_that_everybody_can_read_is_rejected(tmp_path: Path) -> None:
    make_keys(tmp_path)
    path = tmp_path / "learner" / "secret.key"
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        client_keys(tmp_path, "learner")
    path.chmod(0o440)  # as a cluster's secrets are mounted
    assert client_keys(tmp_path, "learner") is not None


def test_a_missing_file_is_named_with_advice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has neither secret\.key nor actor/secret\.key; create keys with: oatmill keygen"):
        client_keys(tmp_path, "actor")
    make_keys(tmp_path)
    with pytest.raises(UserError, match="has no folder trusted"):
        server_keys(tmp_path / "actor")
    assert client_keys(None, "actor") is None
    assert server_keys(None) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written to"):
        make_keys(tmp_path / "keys")
