"""Writing to a pipe or terminal that nobody reads does not block."""

from __future__ import annotations

import fcntl
import io
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from oatmill.process.nonblocking_output import NonBlockingOutput, unblocked, write_within

F_SETPIPE_SZ = 1031
ROOM = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """A reader's descriptor and a writer whose pipe holds ROOM bytes."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, ROOM)
    stream = os.fdopen(writer, "w")
    try:
        yield reader, stream
    finally:
        os.close(reader)
        stream.close()


def read_to(reader: int, end: bytes) -> str:
    content = b""
    while not content.endswith(end):
        content += os.read(reader, ROOM)
    return content.decode()


def outlet_of(stream: TextIO, kept: int) -> NonBlockingOutput:
    assert isinstance(unblocked(stream), NonBlockingOutput)
    return NonBlockingOutput(stream, kept=kept)


def test_texts_are_written_in_order(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    stream.write("before\n")  # buffered by the stream
    outlet = outlet_of(stream, 300)
    for number in range(200):
        outlet.write(f"line {number}\n")
    assert outlet.drain(5.0)
    assert read_to(reader, b"line 199\n") == "before\n" + "".join(f"line {number}\n" for number in range(200))
    assert outlet.dropped == 0


def test_a_full_pipe_does_not_block_and_dropped_texts_are_counted(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    outlet = outlet_of(stream, 10)
    began = time.monotonic()
    for number in range(100):
        outlet.write(f"{number:0{ROOM - 1}d}\n")  # the first fills the pipe, the second waits in the thread
    assert not outlet.drain(0.1)
    assert time.monotonic() - began < 2.0
    # Of 100, one is in the pipe, one in the hands of the thread, and 10 wait; up to two more were dropped if it was late.
    assert 88 <= outlet.dropped <= 90
    shown = read_to(reader, f"{99:04d}\n".encode())
    assert outlet.drain(5.0)
    # On a busy machine the thread takes the second text late, with a note of its own.
    told = [int(number) for number in re.findall(r"\((\d+) lines were dropped, because this output was not read\)\n", shown)]
    assert sum(told) == outlet.dropped
    assert shown.endswith(f"{99:0{ROOM - 1}d}\n"), "the newest are kept"


def test_the_last_output_waits_for_a_limited_time(pipe: tuple[int, TextIO]) -> None:
    _, stream = pipe
    assert write_within(stream, "short\n", 5.0)
    began = time.monotonic()
    assert not write_within(stream, "x" * 2 * ROOM, 0.2)
    assert time.monotonic() - began < 2.0


def test_a_closed_reader_is_an_error_as_with_any_stream() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        with pytest.raises(BrokenPipeError):
            write_within(stream, "text\n")
        outlet = NonBlockingOutput(stream)
        outlet.write("text\n")
        outlet.drain(5.0)
        with pytest.raises(BrokenPipeError):
            outlet.write("more\n")


def test_a_non_blocking_descriptor_loses_nothing(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    os.set_blocking(stream.fileno(), False)
    outlet = outlet_of(stream, 10)
    for number in range(5):
        outlet.write(f"{number:0{ROOM - 1}d}\n")
    assert len(read_to(reader, b"0004\n")) == 5 * ROOM
    os.set_blocking(stream.fileno(), True)


def test_files_and_strings_are_written_at_once(tmp_path: Path) -> None:
    text = io.StringIO()
    assert unblocked(text) is text
    with (tmp_path / "file").open("w") as file:
        assert unblocked(file) is file
        assert write_within(file, "text\n")
        assert (tmp_path / "file").read_text() == "text\n"
