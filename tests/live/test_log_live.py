# SPDX-License-Identifier: MIT
"""Whatever becomes of what a machine writes on stderr, it serves, and ends when it is told to."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import socket
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from live import Bare, Flight, Live, make_image

BLOCK = 4096
MIB = 1 << 20

LIMIT_S = 2.0
"""From the signal to the exit status, as promised."""

UNREAD = 1000
"""Reads that fail, of which events tell that no pipe, socket or terminal can hold."""

LOST = 6000
"""Whose events have no room where lines wait, either."""

DRIVE = "drive=id=vda,file=a.img,format=raw,rerror=report,werror=stop"


@dataclass
class Sink:
    """What stderr is, and what becomes of it once the machine runs."""

    fd: int
    far: list[int] = field(default_factory=list)
    spoil: Callable[[], None] = lambda: None

    def close(self) -> None:
        """The far end goes away."""
        while self.far:
            os.close(self.far.pop())


def unread_pipe() -> Sink:
    reader, writer = os.pipe()
    return Sink(writer, [reader])


def unread_socket() -> Sink:
    ours, theirs = socket.socketpair()
    return Sink(theirs.detach(), [ours.detach()])


def unread_terminal() -> Sink:
    ours, theirs = pty.openpty()
    return Sink(theirs, [ours])


def stopped_terminal() -> Sink:
    """Somebody has typed Ctrl-S."""
    sink = unread_terminal()
    sink.spoil = lambda: termios.tcflow(sink.fd, termios.TCOOFF)
    return sink


def gone(make: Callable[[], Sink]) -> Callable[[], Sink]:
    def made() -> Sink:
        sink = make()
        sink.spoil = sink.close
        return sink

    return made


def full_disk() -> Sink:
    return Sink(os.open("/dev/full", os.O_WRONLY))


SINKS = {
    "unread pipe": unread_pipe,
    "unread socket": unread_socket,
    "unread terminal": unread_terminal,
    "stopped terminal": stopped_terminal,
    "closed pipe": gone(unread_pipe),
    "closed socket": gone(unread_socket),
    "closed terminal": gone(unread_terminal),
    "full disk": full_disk,
}


@contextlib.contextmanager
def machine(kind: type[Live], directory: Path, sink: Sink) -> Iterator[Live]:
    make_image(directory / "a.img", MIB, pattern=1)
    try:
        with kind(directory, DRIVE, stderr=sink.fd) as live:
            sink.spoil()
            yield live
    finally:
        # Not before: without it a stopped terminal would wait for its output to go.
        sink.close()
        os.close(sink.fd)


def fail_reads(live: Live, number: int) -> None:
    """So many reads that fail, each of which is told."""
    with live.qmp() as qmp, live.guest() as guest:
        qmp("x-fault-add", node_name="vda", iotype="read", errno="EIO", id="f")
        for _ in range(number // 100):
            flight = Flight()
            for _ in range(100):
                flight.read(guest, 0, 512)
            assert flight.land() == ["EIO"] * 100
            qmp("query-status")
            qmp.take_events()
        qmp("x-fault-remove", id="f")


@pytest.mark.parametrize("kind", [Live, Bare], ids=["serve", "nbdkit"])
@pytest.mark.parametrize("make", SINKS.values(), ids=SINKS)
def test_a_log_that_cannot_be_written(
    make: Callable[[], Sink], kind: type[Live], tmp_path: Path
) -> None:
    with machine(kind, tmp_path, make()) as live:
        fail_reads(live, UNREAD)
        with live.qmp() as qmp, live.guest() as guest:
            qmp("stop")
            qmp("cont")
            assert guest.pread(BLOCK, 0) == b"\1" * BLOCK
        started = time.monotonic()
        assert live.stop() == 0
        assert time.monotonic() - started < LIMIT_S
        assert not os.path.exists(live.control)


def test_lines_that_were_lost_are_counted(tmp_path: Path) -> None:
    """Those that are read and those that were lost are all that there were."""
    sink = unread_pipe()
    with machine(Live, tmp_path, sink) as live:
        fail_reads(live, LOST)
        text = bytearray()
        while b"lines of the log were lost" not in text:
            text += os.read(sink.far[0], 1 << 16)
        assert live.stop() == 0
        os.set_blocking(sink.far[0], False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(sink.far[0], 1 << 16):
                text += data
    told = text.count(b'"BLOCK_IO_ERROR"')
    lost = [int(number) for number in re.findall(rb'"(\d+) lines of the log were lost"', text)]
    assert told + sum(lost) == LOST
    assert b'"SHUTDOWN"' in text, "the last line is written when that is possible"


def test_what_the_c_library_says_is_in_the_log(tmp_path: Path) -> None:
    """nbdkit's own messages, in their order, up to the end."""
    sink = unread_pipe()
    with machine(Bare, tmp_path, sink) as live:
        fail_reads(live, 100)
        assert live.stop() == 0
        os.set_blocking(sink.far[0], False)
        text = os.read(sink.far[0], 1 << 16)
    assert text.count(b": pread: ") == 100
    assert text.count(b'"BLOCK_IO_ERROR"') == 100


def test_what_is_logged_before_it_serves(tmp_path: Path) -> None:
    """On stderr as well; the only line on stdout is the one that says ready."""
    make_image(tmp_path / "a.img", MIB)
    with Live(tmp_path, "drive=id=vda,file=a.img") as live:
        assert list(live.ready["drives"]) == ["vda"]
        assert live.stop() == 0
        assert live.process.stdout is not None
        assert live.process.stdout.read() == b""
    assert "probing guessed raw" in live.log.read_text().splitlines()[0]
