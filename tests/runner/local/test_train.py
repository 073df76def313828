"""What is checked and removed before a run begins."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from oatmill.errors import UserError
from recipes import cartpole
from runner.folder import RunFolder
from runner.local.train import Options, held_folder, prepare, train_here
from runner.plan_report import report_plan
from tests.ports import free_ports


@pytest.mark.parametrize(
    ("acknowledge", "resume", "left"),
    [
        ("memory", False, set()),
        ("memory", True, {"0000000003.buffer"}),
        ("durable", False, {"0000000003.buffer", "00000000000000000000.log"}),
        ("durable", True, {"0000000003.buffer", "00000000000000000000.log"}),
    ],
)
def test_books_go_with_a_server_that_is_gone_and_the_replay_buffer_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acknowledge: str, resume: bool, left: set[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = tmp_path / "shared"
    (shared / "buffer").mkdir(parents=True)
    (shared / "00000000000000000000.log").touch()
    (shared / "buffer" / "0000000003.buffer").touch()
    settings = cartpole.settings()
    settings.replay.log_dir = str(shared)
    settings.replay.acknowledge = acknowledge  # type: ignore[assignment]
    folder = RunFolder.new(tmp_path / "run", "cartpole")
    prepare(folder, report_plan(settings), resume=resume)
    folder.release()
    assert {path.name for path in shared.rglob("*") if path.is_file()} == left


def test_a_folder_with_a_file_that_cannot_be_read_is_refused_with_one_line_and_let_go(tmp_path: Path) -> None:
    RunFolder.new(tmp_path / "run", "cartpole").release()
    (tmp_path / "run" / "config.yaml").touch()
    (tmp_path / "run" / "summary.json").mkdir()  # as a user may who makes a copy with the wrong tool
    for _ in range(2):
        with (
            pytest.raises(UserError, match=r"summary\.json cannot be read: Is a directory; remove or repair it$"),
            held_folder(Options(run_dir=tmp_path / "run", resume=True), "cartpole"),
        ):
            pass


@pytest.fixture
def taken_port() -> Iterator[int]:
    """The second of four ports, which another program has."""
    first = free_ports()
    with socket.socket() as other:
        other.bind(("127.0.0.1", first + 1))
        other.listen()
        yield first


class Silent:
    """An observer that expects no run."""

    def started(self, *_: object) -> None:
        raise AssertionError("the run was announced")

    def ended(self) -> None:
        pass


@pytest.mark.parametrize(
    ("listen", "keys", "says"),
    [
        (
            "tcp://127.0.0.1:{port}",
            None,
            r"^cannot listen on tcp://127\.0\.0\.1:\d+: Address already in use; choose another --listen",
        ),
        ("tcp://0.0.0.0:{port}", None, r"^tcp://0\.0\.0\.0 can be reached from other machines and no key is required"),
        ("tcp://0.0.0.0:{port}", "nowhere", r"^--keys .*nowhere has neither secret\.key nor server/secret\.key"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_before_the_run_is_announced(
    tmp_path: Path, taken_port: int, listen: str, keys: str | None, says: str
) -> None:
    options = Options(
        run_dir=tmp_path / "run",
        listen=listen.format(port=taken_port),
        keys=keys and tmp_path / keys,  # type: ignore[arg-type]
        observer=Silent(),  # type: ignore[arg-type]
    )
    with pytest.raises(UserError, match=says):
        train_here(cartpole.settings(), recipe="cartpole", preset=None, options=options)
    assert not (tmp_path / "run").exists()
