"""`oatmill status`, `scale` and `stop`: which hub they ask."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cli.entry import run_command
from deploy.cli.groups import ActiveRun
from oatmill.errors import UserError
from recipes import cartpole
from runner.folder import LOCK
from runner.settings import write_config


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """The folder of an active run."""
    write_config(cartpole.settings(), tmp_path / "config.yaml")
    with (tmp_path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


@pytest.mark.parametrize("command", [["status"], ["stop"], ["scale", "--actors", "2"]])
def test_a_run_json_without_an_address_is_named_in_one_line(
    command: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "run.json").write_text('{"processes": []}')
    assert run_command([*command, str(run)]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(f"oatmill: error: {run / 'run.json'} is damaged")


def test_a_folder_counts_more_than_an_address(run: Path) -> None:
    (run / "run.json").write_text('{"control": "ipc:///here", "keys": "/keys"}')
    hub = ActiveRun(run_dir=run, address="tcp://elsewhere:7302", keys=Path("/others")).hub()
    assert (hub.address, hub.keys, hub.name) == ("ipc:///here", Path("/keys"), str(run))
    hub = ActiveRun(address="tcp://elsewhere:7302", keys=Path("/others")).hub()
    assert (hub.address, hub.keys, hub.name) == ("tcp://elsewhere:7302", Path("/others"), "tcp://elsewhere:7302")
    with pytest.raises(UserError, match="once"):
        ActiveRun(run=run, run_dir=run).hub()
