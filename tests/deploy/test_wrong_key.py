"""A wrong or missing key: a question that a person asks ends with 2, a role that is started again with 1."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from deploy.cli.entry import run_command
from oatmill.errors import NotLetInError
from protocol.channels import handshake
from protocol.channels.sockets import ServerSocket
from protocol.security.keys import make_keys, server_keys
from protocol.security.zap import ZapHandler


def test_a_missing_key_is_bad_input_for_a_question_and_may_become_good_for_a_role(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert NotLetInError("a role's").exit_code == 1
    monkeypatch.setattr(handshake, "PATIENCE_S", 0.3)
    make_keys(tmp_path / "keys")
    keys = server_keys(tmp_path / "keys")
    assert keys is not None
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    zap = ZapHandler(context, keys)
    server = ServerSocket(context, zap=zap)
    try:
        address = server.bind("tcp://127.0.0.1:0")
        for arguments in (["status"], ["stop"], ["scale", "--actors", "2"]):
            assert run_command([*arguments, "--address", address]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "requires a key and this process has none; set --keys" in line
    finally:
        server.close()
        zap.close()
        context.term()
