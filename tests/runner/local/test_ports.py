from __future__ import annotations

import socket

import pytest

from oatmill.errors import RunError
from runner.local import ports


def test_ports_in_a_row_exclude_one_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as used:
        used.bind(("", 0))
        number = used.getsockname()[1]
        # Of the two possible first ports, number - 1 has the used port as its second.
        monkeypatch.setattr(ports, "LOWEST_PORT", number - 1)
        monkeypatch.setattr(ports, "HIGHEST_PORT", number + 1)
        with pytest.raises(RunError, match="no 2 free ports in a row"):
            ports.free_ports(2)
