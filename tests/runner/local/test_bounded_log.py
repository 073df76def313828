"""A log keeps its first and its newest lines, however much is written, while the writer goes on."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.local import bounded_log
from runner.local.bounded_log import FIRST_BYTES, LAST_BYTES, LEFT_OUT, LONGEST_BYTES, shorten
from runner.local.child import Child
from runner.local.launcher import LocalLauncher

LINE = 16
"""Bytes of each numbered line."""


def numbered(first: int, last: int) -> str:
    return "".join(f"{number:015d}\n" for number in range(first, last))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the first 10 lines and the newest 20 of a log that has grown to more than 50."""
    monkeypatch.setattr(bounded_log, "FIRST_BYTES", 10 * LINE)
    monkeypatch.setattr(bounded_log, "LAST_BYTES", 20 * LINE)
    monkeypatch.setattr(bounded_log, "LONGEST_BYTES", 50 * LINE)


@pytest.mark.usefixtures("small")
def test_the_middle_goes_and_a_line_says_how_much_of_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(numbered(0, 50))
    shorten(log)
    assert log.read_text() == numbered(0, 50)  # not too long yet
    log.write_text(numbered(0, 100))
    shorten(log)
    # Lines 0 to 9 and the last 20 whole ones; a line that begins exactly where the last part begins is not known to be whole.
    assert log.read_text() == numbered(0, 10) + LEFT_OUT % (71 * LINE) + numbered(81, 100)


@pytest.mark.usefixtures("small")
def test_what_is_left_out_in_several_turns_is_added_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    written = 0
    for _ in range(20):
        with log.open("a") as file:
            file.write(numbered(written, written + 33))
        written += 33
        shorten(log)
    text = log.read_text()
    kept = [line for line in text.splitlines() if line.isdigit()]
    assert text.startswith(numbered(0, 10))
    assert kept[-1] == f"{written - 1:015d}"
    assert LEFT_OUT % ((written - len(kept)) * LINE) in text
    assert text.count("left out") == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("text", ["x" * 100 * LINE, "x" * 100 * LINE + "\n", "\n" * 100 * LINE, "\r50 %" * 100 * LINE])
def test_output_without_lines_is_bounded_too(tmp_path: Path, text: str) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    shorten(log)
    assert log.stat().st_size <= 30 * LINE + len(LEFT_OUT % 0)
    assert "left out" in log.read_text()


@pytest.mark.usefixtures("small")
def test_a_place_in_the_log_is_found_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(numbered(0, 100))
    places = [5 * LINE, 90 * LINE, 40 * LINE]  # in the first part, in the last one, in between
    moved = []
    for place in places:
        log.write_text(numbered(0, 100))
        moved.append(shorten(log, place))
    texts = [log.read_text()[place:].splitlines()[0] for place in moved]
    assert texts == [f"{5:015d}", f"{90:015d}", f"{81:015d}"]


def test_a_log_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert shorten(tmp_path / "none", 7) == 7


def test_a_child_that_prints_without_end_has_a_bounded_log_and_its_last_words_are_heard(tmp_path: Path) -> None:
    # 40 MB; what comes while the log is shortened is a small part of it, and the child is not held up or ended.
    code = (
        "import sys\n"
        "print('the first line')\n"
        "for number in range(400_000): sys.stdout.write(f'{number:099d}\\n')\n"
        "sys.stdout.flush(); sys.stderr.write('oatmill: error: the last line\\n'); sys.exit(1)"
    )
    child = Child("actor", 0, [sys.executable, "-c", code], log=tmp_path / "log", threads=1)
    sizes = []
    deadline = time.monotonic() + 60
    while child.exit_code is None:
        assert time.monotonic() < deadline
        child.bound_log()
        sizes.append(child.log.stat().st_size)
        time.sleep(0.001)
    child.bound_log()
    assert child.log.stat().st_size <= LONGEST_BYTES
    assert max(sizes) < 40e6 / 2
    assert child.exit_code == 1
    assert child.error == "the last line"
    text = child.log.read_text()
    assert text.startswith("the first line\n")
    assert text.count("left out") == 1
    assert len(text) >= FIRST_BYTES + LAST_BYTES / 2


def test_a_process_that_prints_very_much_is_named_once(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    folder = SimpleNamespace(
        path=tmp_path, flush=lambda: None, write_run=lambda _: None, event=lambda name, **values: events.append({name: values})
    )
    settings = SimpleNamespace(trainer=SimpleNamespace(learners=1), evaluator=SimpleNamespace(enabled=False))
    addresses = SimpleNamespace(control="ipc:///nobody")
    job: Any = SimpleNamespace(folder=folder, settings=settings, addresses=addresses, identity={}, keys=None)
    launcher, log = LocalLauncher(job), tmp_path / "actor-3.log"
    child = Child("actor", 3, [sys.executable, "-c", "pass"], log=log, threads=1)
    assert child.wait(time.monotonic() + 60)
    for size in (10, LONGEST_BYTES + 1, LONGEST_BYTES + 1):
        log.write_text("x" * size)
        launcher.record({}, [child], lambda _: 0)
    text = f"actor 3 prints a lot of output: more than 2.2 MiB; {log} keeps the first and the newest lines"
    assert events == [{"log_shortened": {"text": text, "process": "actor 3"}}]


def test_a_log_that_grows_faster_than_it_is_copied_is_shortened_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.write_text("x" * (LONGEST_BYTES + 1))
    copy, grown = os.pwrite, [0]

    def grow(file: int, part: bytes, at: int) -> int:
        grown[0] += 1
        assert grown[0] < 1000, "it is copied without end"
        copy(file, b"y" * (2 * len(part)), os.fstat(file).st_size)
        return copy(file, part, at)

    monkeypatch.setattr(os, "pwrite", grow)
    shorten(log)
    assert log.stat().st_size <= LONGEST_BYTES + bounded_log.CHUNK_BYTES


def test_the_stacks_of_a_child_that_hangs_arrive_in_a_shortened_log(tmp_path: Path) -> None:
    code = (
        "import faulthandler, sys, time\n"
        "sys.stdout.write('x' * 99 + '\\n'); sys.stdout.write(('y' * 99 + '\\n') * 30_000); sys.stdout.flush()\n"
        "faulthandler.dump_traceback_later(0.5, exit=True)\n"
        "time.sleep(60)"
    )
    child = Child("actor", 0, [sys.executable, "-c", code], log=tmp_path / "log", threads=1)
    deadline = time.monotonic() + 60
    while child.exit_code is None and time.monotonic() < deadline:
        child.bound_log()
        time.sleep(0.01)
    assert child.exit_code == 1
    assert "most recent call first" in "\n".join(child.last_lines(20))


def test_the_next_process_of_a_shortened_log_is_told_from_the_one_before(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "print('oatmill: error: of the first'); print(('y' * 99 + '\\n') * 30_000)"
    first = Child("actor", 0, [sys.executable, "-c", code], log=log, threads=1)
    assert first.wait(time.monotonic() + 60)
    second = Child("actor", 0, [sys.executable, "-c", "print('of the second')"], log=log, threads=1)
    assert second.wait(time.monotonic() + 60)
    second.bound_log()
    assert log.stat().st_size < LONGEST_BYTES
    assert second.last_lines(5) == ["of the second"]
