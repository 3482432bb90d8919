# SPDX-License-Identifier: MIT
"""The lines of a recording, and the file that they go to: it may be slow, or full."""

from __future__ import annotations

import base64
import errno
import json
import os
import threading
import zlib
from collections.abc import Coroutine
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from blockcore.bql.effects import Until
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.recorded import RecordedDrive, RecordedShortcut, opened
from blockcore.drive.recording import PATIENCE_NS, Entry, Recording
from blockcore.nodes.shortcut.guest import GuestShortcut
from blockcore.nodes.shortcut.slot import Slot
from blockcore.process import recorder
from blockcore.process.recorder import Recorder, contents, open_recording
from blockcore.qapi.errnos import HungUp, failure
from blockcore.qapi.names import FaultIOType, QmpError
from rules import Clock
from sim import perform

BUF = memoryview(bytearray(b"data" * 128))


class Lines:
    """Lines in a list, in as many of which as a test wants there is room."""

    def __init__(self, *, keeps_data: bool = True, room: int = 100) -> None:
        self.keeps_data = keeps_data
        self.room = room
        self.lines: list[dict[str, Any]] = []

    def put(self, line: str, more: bytes = b"") -> None:
        self.lines.append(json.loads(line + more.decode() + "}"))

    def has_room(self) -> bool:
        return len(self.lines) < self.room

    def contents(self, data: memoryview) -> bytes:
        return contents(bytes(data))

    def digest(self, data: memoryview) -> int:
        return zlib.crc32(data)

    def finish(self, last: str) -> None:
        self.put(last)

    def take(self) -> list[dict[str, Any]]:
        """The lines so far, without their times; later calls return later ones."""
        lines, self.lines = self.lines, []
        return [{name: line[name] for name in line if name != "ms"} for line in lines]


class Drive:
    """A drive whose requests end as a test wants, and are hit by the rule `r` before."""

    shortcut: object = None
    export = "vda"

    def __init__(self, recording: Recording, error: OSError | None = None) -> None:
        self._recording = recording
        self._error = error

    async def pread(self, offset: int, buf: memoryview, tried: object = False) -> None:
        await Until(lambda: True)
        self._recording.fault("r", FaultIOType.READ, offset, len(buf))
        if self._error is not None:
            raise self._error

    async def pwrite(
        self, offset: int, buf: memoryview, fua: bool = False, tried: object = False
    ) -> None:
        """Do nothing."""

    async def zero(self, offset: int, length: int, **flags: bool) -> None:
        assert self._error is not None
        raise self._error


def recorded(
    lines: Lines, error: OSError | None = None
) -> tuple[Recording, RecordedDrive, list[str], Clock]:
    ends: list[str] = []
    clock = Clock()
    recording = Recording(lines, clock, ends.append)
    drive = RecordedDrive(cast(BlockBackend, Drive(recording, error)), recording, 3)
    return recording, drive, ends, clock


def test_a_request_has_two_lines() -> None:
    lines = Lines()
    _, drive, _, clock = recorded(lines)
    clock.ns = 1_500_000
    perform(drive.pwrite(512, BUF, fua=True))
    assert lines.lines[0]["ms"] == 1.5
    data = [base64.b64encode(BUF).decode()]
    begin = {"request": 1, "connection": 3, "iotype": "write", "offset": 512, "length": 512}
    assert lines.take() == [{**begin, "fua": True, "data": data}, {"done": 1}]
    perform(drive.pread(0, BUF))
    begin = {"request": 2, "connection": 3, "iotype": "read", "offset": 0, "length": 512}
    assert lines.take() == [begin, {"done": 2, "digest": zlib.crc32(BUF), "rules": ["r"]}]


def test_errnos_are_those_that_clients_see() -> None:
    lines = Lines()
    _, drive, _, _ = recorded(lines, failure(errno.ENXIO))
    with pytest.raises(OSError):
        perform(drive.pread(0, BUF))
    assert lines.take()[1] == {"done": 1, "errno": errno.EIO, "rules": ["r"]}
    for fast, seen in ((False, errno.EIO), (True, errno.ENOTSUP)):
        _, drive, _, _ = recorded(lines, failure(errno.ENOTSUP))
        with pytest.raises(OSError):
            perform(drive.zero(0, 1, may_unmap=True, fast=fast))
        assert lines.take()[1]["errno"] == seen


def test_digests_instead_of_data() -> None:
    lines = Lines(keeps_data=False)
    _, drive, _, _ = recorded(lines)
    perform(drive.pwrite(0, BUF))
    begun = lines.take()[0]
    assert begun["digest"] == zlib.crc32(BUF)
    assert "data" not in begun


def test_a_client_that_goes_away_is_told_nothing() -> None:
    lines = Lines()
    recording, _, _, _ = recorded(lines)

    class Waiting(Drive):
        async def pread(self, offset: int, buf: memoryview, tried: object = False) -> None:
            try:
                await Until(lambda: False)
            finally:
                await Until(lambda: False)  # where `Routine.abandon` cuts it short again

    drive = RecordedDrive(cast(BlockBackend, Waiting(recording)), recording, 1)
    coro: Coroutine[Any, Any, None] = drive.pread(0, BUF)
    coro.send(None)
    coro.close()
    assert lines.take()[1] == {"done": 1, "gone": True}


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, {"connect": 4, "drive": "vda", "read-only": True}),
        (failure(errno.EIO), {"refused": 4}),
        (HungUp(), {"refused": 4, "hung-up": True}),
    ],
)
def test_an_attempt_to_connect(error: OSError | None, end: dict[str, Any]) -> None:
    lines = Lines()
    recording, _, _, _ = recorded(lines)
    drive = Drive(recording, error)
    opening = opened(drive.pread(0, BUF), recording, 4, cast(BlockBackend, drive), False)
    with pytest.raises(OSError) if error else nullcontext():
        perform(opening)
    begun = {"connecting": 4, "drive": "vda", "read-only": True}
    assert lines.take() == [begun, {**end, "rules": ["r"]}]
    opening = opened(drive.pread(0, BUF), recording, 5, cast(BlockBackend, drive), True)
    opening.send(None)
    opening.close()
    assert lines.take() == [{"connecting": 5, "drive": "vda"}, {"refused": 5, "gone": True}]


def test_files_that_rules_look_for() -> None:
    """A line for each change, with the request that has found it when it came."""
    lines = Lines()
    recording, _, _, _ = recorded(lines)
    one, two, none = {"/a"}, {"/a", "/b"}, set[str]()
    recording.sought(one, none)
    recording.current = Entry(1, [])
    recording.sought(one, none)
    assert lines.take() == [{"file": "/a", "exists": False}]
    recording.sought(two, two)
    assert lines.take() == [
        {"file": "/a", "exists": True},
        {"file": "/b", "exists": True, "for-request": 1},
    ]
    recording.current = Entry(2, [], "connecting")
    recording.sought(two, one)
    assert lines.take() == [{"file": "/b", "exists": False, "for-connecting": 2}]
    recording.sought(one, one)
    assert not lines.take()


def test_the_hits_of_jobs_have_lines_of_their_own() -> None:
    lines = Lines()
    recording, _, _, _ = recorded(lines)
    recording.fault("r", FaultIOType.WRITE, 0, 65536)
    assert lines.take() == [{"fault": "r", "iotype": "write", "offset": 0, "length": 65536}]


def test_guests_wait_for_room() -> None:
    lines = Lines(room=0)
    recording, drive, ends, _ = recorded(lines)
    coro: Coroutine[Any, Any, None] = drive.pread(0, BUF)
    wait = coro.send(None)
    assert not wait.condition() and wait.deadline_ns == PATIENCE_NS
    lines.room = 100
    assert wait.condition()
    with pytest.raises(StopIteration):
        coro.send(True)
        coro.send(True)
    assert [*lines.take()[1]] == ["done", "digest", "rules"]
    assert not ends and not recording.ended


def test_a_file_that_takes_nothing_ends_the_recording() -> None:
    lines = Lines(room=0)
    recording, drive, ends, _ = recorded(lines)
    coro: Coroutine[Any, Any, None] = drive.pwrite(0, BUF)
    coro.send(None)
    with pytest.raises(StopIteration):
        coro.send(False)  # the deadline has passed
    assert ends == ["the file took no lines for 10 s"] and recording.ended
    assert lines.take() == [{"end": ends[0]}]
    perform(drive.pwrite(0, BUF))
    assert not lines.take()


class Beneath:
    """What `GuestShortcut` does, in the place of I/O."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error

    def __call__(self, shortcut: object, slot: Slot, offset: int, buf: memoryview) -> bool:
        if self.error is not None:
            raise self.error
        return True


@pytest.mark.parametrize("what", ["done", "taken away", "failed"])
def test_the_shortcut(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines()
    recording, _, _, _ = recorded(lines)
    drive = Drive(recording)
    shortcut = RecordedShortcut.__new__(RecordedShortcut)
    shortcut._blk, shortcut._recording = cast(BlockBackend, drive), recording
    drive.shortcut = None if what == "taken away" else shortcut
    beneath = Beneath(failure(errno.EIO) if what == "failed" else None)
    for name in ("do_pread", "do_pwrite"):
        monkeypatch.setattr(GuestShortcut, name, lambda *args: beneath(*args))
    for go, end in (
        (shortcut.do_pread, {"digest": zlib.crc32(BUF)}),
        (shortcut.do_pwrite, {}),
    ):
        try:
            assert go(Slot(9), 0, BUF) == (what == "done")
        except OSError:
            assert what == "failed"
        begun, ended = lines.take()
        assert begun["connection"] == 9
        number = begun["request"]
        assert ended == ({"done": number, **end} if what == "done" else {"withdrawn": number})


def decoded(text: bytes) -> bytes:
    return b"".join(
        base64.b64decode(part) if isinstance(part, str) else bytes([part[0]]) * part[1]
        for part in json.loads(text)
    )


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"x", 1),
        (b"abc", 1),
        (bytes(4096), 1),
        (b"abc" + bytes(4093), 1),
        (bytes(65536), 1),
        (b"ab" * 10240 + b"\x07" * 20480, 2),
        (b"\1" * 10240 + b"ab" * 256 + bytes(10241), 4),
        (bytes(range(256)) * 128, 1),
    ],
)
def test_contents(data: bytes, parts: int) -> None:
    text = contents(data)
    assert decoded(text) == data
    assert len(json.loads(text)) == parts


def test_only_recordings_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(b"an image")
    with pytest.raises(QmpError, match="exists, and is no recording"):
        open_recording("", str(path))
    assert path.read_bytes() == b"an image"
    path.write_text('{"faultline-recording":1}\n')
    os.close(open_recording("", str(path)))
    assert path.read_bytes() == b""
    with pytest.raises(QmpError, match="Could not open '.*': No such file or directory"):
        open_recording("", str(tmp_path / "none" / "r"))


def nothing() -> None:
    """Nobody waits for room."""


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_file_has_every_line(tmp_path: Path) -> None:
    path = tmp_path / "r"
    made = Recorder(open_recording("", str(path)), keeps_data=True)
    made.start('{"first":1', pytest.fail, nothing)
    for number in range(1000):
        made.put(f'{{"n":{number}', b',"data":1')
    made.finish('{"end":"e"')
    made.close()
    expected = [{"n": number, "data": 1} for number in range(1000)]
    assert lines_of(path) == [{"first": 1}, *expected, {"end": "e"}]


def test_the_first_line_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r"
    made = Recorder(open_recording("", str(path)), keeps_data=True)
    made.start('{"first":1', pytest.fail, nothing)
    assert lines_of(path) == [{"first": 1}]
    made.finish('{"end":"e"')
    made.close()


def test_room_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "BACKLOG_BYTES", 100)
    poked = threading.Event()
    made = Recorder(open_recording(str(tmp_path), "r"), keeps_data=True)
    made.put('{"x":1', b" " * 100)
    assert not made.has_room()
    made.start('{"first":1', pytest.fail, poked.set)
    assert poked.wait(30) and made.has_room()
    made.finish('{"end":"e"')
    made.close()


@pytest.mark.parametrize("room", [1, 100, 1000, 5000])
def test_a_full_disk(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever there is room for: whole lines, and the reason in the last one."""
    path = tmp_path / "r"
    capacity = 20000 + room
    fd = open_recording("", str(path))

    def writev(fd: int, parts: list[bytes]) -> int:
        free = capacity - os.fstat(fd).st_size
        if not free:
            raise failure(errno.ENOSPC)
        return write(fd, b"".join(parts)[:free])

    write = os.write
    monkeypatch.setattr(os, "writev", writev)
    monkeypatch.setattr(os, "write", lambda fd, data: writev(fd, [bytes(data)]))
    failed = threading.Event()
    made = Recorder(fd, keeps_data=True)

    def fail(reason: str) -> None:
        made.write_end(f'{{"end":"{reason}"')
        failed.set()

    for number in range(1000):
        made.put(f'{{"n":{number}', b',"data":"%b"' % (b"x" * 50))
    made.start('{"first":1', fail, nothing)
    assert failed.wait(30)
    first, *lines, last = lines_of(path)
    assert (first, last) == ({"first": 1}, {"end": "No space left on device"})
    assert [line["n"] for line in lines] == [*range(len(lines))]
    assert len(lines) > 200
