"""What a user's environment does to its process is told in one line, and does nothing to the command that describes it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.environments.make import describe
from actors.settings import FactoryEnv
from oatmill.errors import UserError
from protocol.data.spaces import Spaces
from runner import user_code_process
from runner.user_code_process import UserCodeProcess

FACTORY = "tests.actors.environments.rude_environments:make"
RUDE = r"tests/actors/environments/rude_environments\.py:\d+"


def environment(limit_s: float = 60.0, **kwargs: Any) -> UserCodeProcess:
    env = {"kind": "factory", "factory": FACTORY, "kwargs": kwargs}
    return UserCodeProcess(
        "actors.environments.describe", env, what="env.factory=rude", limit_s=limit_s, setting="actors.hang_timeout"
    )


@pytest.mark.parametrize(
    ("how", "when", "says"),
    [
        ("leaves", "reset", rf"^env\.factory=rude called sys\.exit\(0\) \({RUDE}, in leaves\)$"),
        (
            "leaves_at_once",
            "build",
            rf"^env\.factory=rude ended its process with exit code 0, by os\._exit or in C code \({RUDE}, in leaves_at_once\); "
            r"the last line that it printed: gone$",
        ),
        ("forks", "reset", rf"^env\.factory=rude forked this process, and the copy did not end; .* \({RUDE}, in forks\)$"),
        ("crashes", "reset", rf"^env\.factory=rude ended its process by SIGSEGV \({RUDE}, in crashes\)$"),
        ("raises", "reset", rf"raised in reset: KeyError: 'no such level' \({RUDE}, in raises\)$"),
    ],
)
def test_an_environment_that_ends_its_process_raises_an_error_of_one_line(how: str, when: str, says: str) -> None:
    assert re.search(says, refusal(60.0, how, when))


@pytest.mark.parametrize(("how", "when"), [("hangs", "reset"), ("hangs_in_c", "build")])
def test_an_environment_that_hangs_raises_an_error_of_one_line(how: str, when: str) -> None:
    for limit_s in (1, 5, 25):  # on a busy machine its process may not have come to the hanging call
        said = refusal(limit_s, how, when)
        assert said.startswith(f"env.factory=rude is not ready after {limit_s} s")
        if how in said:
            break
    assert re.search(rf"after {limit_s} s \({RUDE}, in {how}\); if it needs longer, raise actors\.hang_timeout$", said)


def test_the_limit_does_not_depend_on_where_each_process_starts_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() - 1e6)  # as `oatmill chaos --fault clock` does
    with environment(60.0, how="sleeps", when="never") as building:
        assert isinstance(building.result(), dict)


def refusal(limit_s: float, how: str, when: str) -> str:
    """The line with which an environment is refused."""
    with pytest.raises(UserError) as error, environment(limit_s, how=how, when=when) as building:
        building.result()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", rf"it raised KeyError: 'no such level' \({RUDE}, in raises\)$"),
        ("leaves", rf"it called sys\.exit\(0\) \({RUDE}, in leaves\)$"),
        ("hangs", r"it took more than 0\.5 s, and its process was killed$"),
        ("crashes", r"it ended its process by SIGSEGV"),
    ],
)
def test_a_close_that_fails_is_a_note_and_the_answer_counts(how: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_code_process, "CLOSE_WITHIN_S", 0.5 if how == "hangs" else 30.0)
    with environment(how=how, when="close") as building:
        assert building.result()["episode_statistics"] == ["is_success", "score"]
        (note,) = building.finish()
    assert note.startswith("when env.factory=rude was closed, ")
    assert re.search(says, note)


@pytest.mark.parametrize("how", ["prints", "moves", "leaves_a_thread", "ends_slowly"])
def test_what_it_prints_where_it_goes_and_its_threads_are_its_own(
    how: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_code_process, "CLOSE_WITHIN_S", 2.0 if how == "ends_slowly" else 30.0)
    here = Path.cwd()
    with environment(how=how) as building:
        answer = building.result()
        assert building.finish() == []
        # A thread does not keep its process; one that is closed and does not end is killed, and that is nobody's business.
        assert building._process.returncode == (-signal.SIGKILL if how == "ends_slowly" else 0)
    assert capfd.readouterr() == ("", "")
    assert Path.cwd() == here
    spaces, statistics = describe(FactoryEnv(factory=FACTORY, kwargs={"how": "nothing"}))
    assert (Spaces.from_dict(answer["spaces"]), tuple(answer["episode_statistics"])) == (spaces, statistics)


def test_what_it_has_started_ends_with_it(tmp_path: Path) -> None:
    with environment(how="starts_a_game", note=str(tmp_path / "pid")) as building:
        building.result()
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_it_does_not_outlive_a_command_that_is_killed() -> None:
    env = {"kind": "factory", "factory": FACTORY, "kwargs": {"how": "hangs"}}
    code = (
        "from runner.user_code_process import UserCodeProcess\n"
        f"work = UserCodeProcess('actors.environments.describe', {env!r}, what='it', limit_s=60)\n"
        "print(work._process.pid, flush=True)\nwork.result()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ) as command:
        assert command.stdout is not None
        child = psutil.Process(int(command.stdout.readline()))
        time.sleep(0.5)
        command.kill()
    deadline = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
