"""Where a run listens, and signals as a count."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oatmill.errors import UserError
from oatmill.process.signals import Interrupts, Stops
from runner.local.listening import listening, make_again, tcp


def test_local_sockets_have_a_private_folder_that_is_taken_away() -> None:
    with listening("ipc") as addresses:
        folder = Path(addresses.listen.removeprefix("ipc://"))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert addresses.control == f"ipc://{folder}/control"
        (folder / "data").touch()
    assert not folder.exists()


def test_empty_folders_of_killed_runs_are_swept_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("oatmill-dead", "oatmill-live", "oatmill-new", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "oatmill-live" / "data").touch()
    for name in ("oatmill-dead", "oatmill-live", "other"):
        os.utime(tmp_path / name, (0, 0))
    with listening("ipc"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["oatmill-live", "oatmill-new", "other"]


def test_a_temporary_folder_that_is_too_deep_for_sockets_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(UserError, match="set TMPDIR to a shorter one"), listening("ipc"):
        pass
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "listen", "control"),
    [
        ("tcp://127.0.0.1", "tcp://127.0.0.1:7300", "tcp://127.0.0.1:7302"),
        ("tcp://127.0.0.1:9000", "tcp://127.0.0.1:9000", "tcp://127.0.0.1:9002"),
        ("tcp://[::1]:9000", "tcp://[::1]:9000", "tcp://[::1]:9002"),
        ("tcp://*:9000", "tcp://0.0.0.0:9000", "tcp://127.0.0.1:9002"),
    ],
)
def test_tcp_takes_four_ports_and_is_reached_at_the_third(asked: str, listen: str, control: str) -> None:
    if "::1" in asked and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    assert (tcp(asked).listen, tcp(asked).control) == (listen, control)


@pytest.mark.parametrize("asked", ["udp://x", "tcp://", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65533", "tcp://h:x", "127.0.0.1"])
def test_an_address_that_is_none_is_refused_with_what_was_expected(asked: str) -> None:
    with pytest.raises(UserError, match=r"--listen must be ipc or tcp://HOST\[:PORT\] with a port from 1 to 65532, got"):
        tcp(asked)


@pytest.fixture
def heeded() -> Iterator[None]:
    """Heeds Ctrl-C, which a shell's background job ignores, and SIGHUP, which nohup's does."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    """Send this process a signal, and let its handler run."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_within_a_second_are_one_stop_later_ones_are_another_and_the_old_handlers_come_back(
    second: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oatmill.process.signals.ONE_DELIVERY_S", 0.3)
    monkeypatch.setattr("oatmill.process.signals.ONE_STOP_S", 0.8)
    before = signal.getsignal(second)
    with Interrupts() as interrupts:
        assert interrupts.count == 0
        send(signal.SIGTERM)
        send(second)  # 10 ms later, as `uv run`, `timeout` and shells do
        send(signal.SIGTERM)
        assert (interrupts.count, interrupts.hasty()) == (1, False)
        time.sleep(0.35)
        send(second)  # a user presses Ctrl-C twice
        assert (interrupts.count, interrupts.hasty(), interrupts.hasty()) == (1, True, False)
        time.sleep(0.6)
        send(second)
        assert interrupts.count == 2
    assert signal.getsignal(second) is before


def test_a_stop_whose_exception_was_lost_counts_from_the_start() -> None:
    stops = Stops()
    assert stops.hear()
    with Interrupts(stops) as interrupts:
        assert interrupts.count == 1


def test_without_a_temporary_folder_that_can_be_written_to_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    with pytest.raises(UserError, match=r"need a writable temporary folder: No usable .*; set TMPDIR to one$"):
        listening("ipc").__enter__()


def test_a_socket_folder_is_held_against_cleaners_and_made_again_for_a_server_that_is_restarted() -> None:
    with listening("ipc") as addresses:
        folder = Path(addresses.listen.removeprefix("ipc://"))
        cleaner = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):  # systemd-tmpfiles passes over what it cannot lock
            fcntl.flock(cleaner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(cleaner)
        folder.rmdir()
        make_again(addresses.listen)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()
    make_again("tcp://127.0.0.1:7300")


def test_a_signal_that_this_process_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            assert interrupts.count == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def enter() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
