"""What `oatmill join` takes from a hub, and what it refuses: a hub is not trusted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from deploy.cli.entry import run_command
from deploy.cli.join import control_address
from oatmill.errors import RunError, UserError
from oatmill.settings.flat import acting_config, joining_config
from protocol.wire import messages
from protocol.wire.codec import decode, encode, to_json
from recipes import cartpole
from runner.local import joined_machine
from runner.local.joined_machine import accepted_settings, entries_of, folder_of
from runner.settings import RunSettings

ADDRESS = "tcp://127.0.0.1:7302"
SENT = acting_config(cartpole.settings().to_dict())
FACTORY = {"kind": "factory", "factory": "maze:make"}


@pytest.mark.parametrize("change", [{}, {"trainer.normalize_returns": True}, {"actors.synchronous": True}])
def test_the_settings_that_are_sent_are_a_whole_run_settings_with_all_that_actors_need(change: dict[str, Any]) -> None:
    whole = cartpole.settings().to_dict()
    for path, value in change.items():
        root, name = path.split(".")
        whole[root][name] = value
    if change:
        whole["replay"]["queue_batches"] = 1
    got = accepted_settings(acting_config(whole), ADDRESS, trust=False).to_dict()
    assert joining_config(got) == joining_config(whole)
    assert got["actors"] == whole["actors"]
    assert [got["trainer"][name] for name in ("gamma", "normalize_returns")] == [
        whole["trainer"][name] for name in ("gamma", "normalize_returns")
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "the run at .* sent settings that are not valid here: env"),
        (SENT | {"env": {"kind": "rocket"}}, "the run at .* sent settings that are not valid here: env.kind"),
        (SENT | {"agent": {"hidden_sizes": "64"}}, "not valid here: agent.hidden_sizes"),
        (SENT | {"shell": "rm"}, "not valid here: .*shell"),
        (SENT | {"env": FACTORY}, "names code to be imported and run, env.factory=maze:make; .* add --trust"),
        (SENT | {"env": {"kind": "gymnasium", "id": "maze:Maze-v0"}}, "names code .*env.id=maze:Maze-v0"),
        (SENT | {"env": {"kind": "gymnasium", "id": "A-v0", "kwargs": {"inner": {"entry": "os:system"}}}}, "names code"),
        (SENT | {"agent": {"encoder": "maze:encoder"}}, "names code .*agent.encoder"),
        (SENT | {"env": {"kind": "gymnasium", "id": "x" * 300_000}}, "sent settings of 3....., bytes; expected at most 262144"),
    ],
)
def test_settings_that_are_wrong_too_long_or_name_code_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(",", ",?")) as error:
        accepted_settings(values, ADDRESS, trust=False)
    assert "\n" not in str(error.value)


def test_code_is_named_with_trust_only() -> None:
    assert accepted_settings(SENT | {"env": FACTORY}, ADDRESS, trust=True).env.kind == "factory"


def test_only_the_well_formed_entries_of_this_machines_actors_are_used() -> None:
    good = {"actor_id": 5, "incarnation": 1, "unrolls": 3, "alive": False, "left": False}
    bad: list[Any] = [
        None,
        7,
        {},
        good | {"actor_id": 4},
        good | {"incarnation": "2"},
        good | {"unrolls": -1},
        good | {"actor_id": [5]},
    ]
    assert list(entries_of([*bad, good | {"began_like": {}}], range(5, 7))) == [good]
    assert list(entries_of({"a": 1}, range(5, 7))) == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("box", "tcp://box:7302"),
        ("box:9", "tcp://box:9"),
        ("tcp://[::1]:7402", "tcp://[::1]:7402"),
        ("ipc:///tmp/x/control", "ipc:///tmp/x/control"),
    ],
)
def test_an_address_may_be_short(text: str, address: str) -> None:
    assert control_address(text) == address


@pytest.mark.parametrize("text", ["", "http://box", "box:0", "box:65536", "a b", "tcp://box:7302/x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="ADDRESS must be HOST, HOST:PORT or tcp://HOST:PORT"):
        control_address(text)


def test_a_temporary_folder_stays_only_where_there_is_a_log_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with folder_of(None):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
    for error, stays in ((UserError("bad"), 0), (RunError("failed"), 1)):
        with pytest.raises(type(error)), folder_of(None):
            raise error
        assert len(list(tmp_path.iterdir())) == stays
    with folder_of(tmp_path / "logs" / "here") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.exists()


@contextmanager
def hub(answers: Callable[[messages.Hello], list[list[bytes]]]) -> Iterator[str]:
    """A hub that answers a machine's HELLO with whatever frames a test wants; its address."""
    context = zmq.Context[zmq.Socket[bytes]]()
    socket = context.socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    ending = threading.Event()

    def serve() -> None:
        while not ending.is_set():
            if socket.poll(50):
                route, header, *_ = socket.recv_multipart()
                message = decode(header, messages.CONTROL_TO_HUB)
                for frames in answers(message) if isinstance(message, messages.Hello) else []:
                    socket.send_multipart([route, *frames])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        ending.set()
        thread.join()
        context.destroy(linger=0)


def welcome(first: int = 3, **values: Any) -> list[bytes]:
    content = {"endpoints": {}, "spaces": None, "episode_statistics": [], "settings": SENT} | values
    return list(map(bytes, encode(messages.HelloAccepted(first, 1, -1), to_json(content))))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        pytest.param([], "no hub answered at .* within 2 s", id="silent"),
        pytest.param([[b"junk", b"junk"]], "no hub answered", id="junk"),
        pytest.param([[b"x" * 9_000, b""], [b"", bytes(9 * 2**20)]], "no hub answered", id="too long"),
        pytest.param([welcome(settings=[1])], "no hub answered", id="settings that are no object"),
        pytest.param([welcome(settings={})], "sent settings that are not valid here", id="no settings"),
        pytest.param([welcome(settings=SENT | {"env": FACTORY})], "names code", id="code"),
        pytest.param([welcome(first=2**52)], "as the first of 2 actor numbers", id="numbers"),
        pytest.param([welcome(first=-1)], "as the first of 2 actor numbers", id="no numbers"),
        pytest.param(
            [list(map(bytes, encode(messages.Reject("header_fields", "expected a role of actor, learner, got 'machine'"))))],
            "its oatmill is too old for `oatmill join`",
            id="old",
        ),
    ],
)
def test_a_wrong_or_hostile_hub_ends_the_command_with_one_line_and_2(
    answers: list[list[bytes]], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(joined_machine, "ANSWERS_WITHIN_S", 2.0)
    began = time.monotonic()
    with hub(lambda _hello: answers) as address:
        assert run_command(["join", address, "--actors", "2", "--log-level", "error"]) == 2
    connecting, line = capsys.readouterr().err.splitlines()
    assert connecting == f"connecting to {address} (for up to 2 s)"
    assert line.startswith("oatmill: error: ")
    pytest.fail(line) if message.split(" .* ", maxsplit=1)[0] not in line else None
    assert time.monotonic() - began < 30


def test_what_is_sent_has_no_settings_of_other_roles() -> None:
    assert set(SENT) == {"env", "agent", "actors", "trainer", "replay"}
    assert (set(SENT["trainer"]), set(SENT["replay"])) == ({"gamma", "normalize_returns"}, {"queue_batches"})
    assert RunSettings.of(SENT)
