# SPDX-License-Identifier: MIT
"""The log goes to a descriptor that may refuse, block, or be gone; nothing but it waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockcore.process.log_writer import BACKLOG_BYTES, NOTHING, Backlog, LogWriter

LINE = b"x" * 1023 + b"\n"


def lost(lines: int) -> bytes:
    return b"%d lost\n" % lines


def drain(backlog: Backlog) -> list[tuple[int, bytes]]:
    entries = []
    while (entry := backlog.take()) != NOTHING:
        entries.append(entry)
    return entries


def test_backlog_counts_lines_where_they_are_lost() -> None:
    backlog = Backlog(limit=4)
    for line in (b"ab", b"cd", b"e", b"f"):
        backlog.put(line)
    assert backlog.take() == (0, b"ab")
    backlog.put(b"gh")
    backlog.put(b"i")
    assert drain(backlog) == [(0, b"cd"), (2, b"gh"), (1, b"")]


def test_backlog_of_lines_that_cannot_be_written() -> None:
    backlog = Backlog()
    for line in (b"a", b"b", b"c"):
        backlog.put(line)
    for _ in range(2):
        lost, line = backlog.take()
        backlog.lose(lost + 1)
    assert drain(backlog) == [(2, b"c")]
    backlog.lose(3)
    assert backlog.is_worth_a_try(failing=False)
    assert not backlog.is_worth_a_try(failing=True)
    backlog.put(b"d")
    assert backlog.is_worth_a_try(failing=True)
    assert drain(backlog) == [(3, b"d")]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        os.close(fd)


def test_what_is_put_is_written_before_the_end(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], lost)
    for number in range(10):
        writer.put(b"%d\n" % number)
    assert writer.close()
    assert os.read(pipe[0], 1000).split() == [b"%d" % number for number in range(10)]


def test_a_pipe_that_nobody_reads_and_that_is_read_later() -> None:
    """What fits waits, what does not is told where it is missing."""
    reader, fd = os.pipe()
    writer = LogWriter(fd, lost)
    sent = 2 * BACKLOG_BYTES // len(LINE)
    for _ in range(sent):
        writer.put(LINE)
    with open(reader, "rb") as stream:
        counts: list[int] = []
        while sum(counts) < sent:
            line = stream.readline()
            counts.append(1 if line == LINE else int(line.removesuffix(b" lost\n")))
        assert max(counts) > 1
        assert writer.close(60)
        os.close(fd)
        assert stream.read() == b""


def test_the_end_does_not_wait_for_a_reader() -> None:
    reader, fd = os.pipe()
    writer = LogWriter(fd, lost)
    for _ in range(2 * 65536 // len(LINE)):
        writer.put(LINE)
    assert not writer.close(0.01)
    os.close(reader)
    assert writer.close(60)
    os.close(fd)


def test_a_pipe_that_another_process_has_made_non_blocking(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    writer = LogWriter(pipe[1], lost)
    number = 3 * 65536 // len(LINE)
    for _ in range(number):
        writer.put(LINE)
    received = bytearray()
    while len(received) < number * len(LINE):
        received += os.read(pipe[0], 65536)
    assert received == LINE * number
    assert writer.close(60)


def test_a_pipe_whose_reader_is_gone() -> None:
    reader, fd = os.pipe()
    writer = LogWriter(fd, lost)
    os.close(reader)
    for _ in range(10):
        writer.put(LINE)
    assert writer.close(60)
    os.close(fd)


def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    """A line that is there in part counts as lost; the next one begins a line of its own."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    disk = Disk(fd, room=10)
    writer = LogWriter(fd, lost)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", disk.write)
        writer.put(b"one\n")
        writer.put(b"two\n")
        writer.put(b"three\n")
        writer.put(b"four\n")
        disk.wait_for_failures(2)
        disk.room = 1000
        writer.put(b"five\n")
        assert writer.close(60)
    os.close(fd)
    assert path.read_bytes() == b"one\ntwo\nth\n2 lost\nfive\n"


class Disk:
    """Something to write to that has room for so many bytes."""

    def __init__(self, fd: int, room: int) -> None:
        self.fd = fd
        self.room = room
        self.failures = 0
        self._write = os.write
        self._failed = threading.Condition()

    def write(self, fd: int, data: bytes) -> int:
        assert fd == self.fd
        if not self.room:
            with self._failed:
                self.failures += 1
                self._failed.notify()
            raise OSError(28, "No space left on device")
        length = min(len(data), self.room)
        self.room -= length
        return self._write(fd, data[:length])

    def wait_for_failures(self, number: int) -> None:
        with self._failed:
            assert self._failed.wait_for(lambda: self.failures >= number, 60)
