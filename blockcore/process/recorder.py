# SPDX-License-Identifier: MIT
"""The file of a recording (``record=FILE``), and the thread that writes it.

The machine never waits for the file.  Lines wait in memory; once there are
`BACKLOG_BYTES` of them, guests' next requests wait (`drive.recording`), so that no
line is lost.  When the file cannot be written any more, because the disk is full for
example, the recording ends: its last line says why, for which the last lines before
it are given up if there is no room otherwise.
"""

from __future__ import annotations

import os
import threading
import zlib
from binascii import b2a_base64
from collections import deque
from collections.abc import Callable

from blockcore.process.log import logger
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError

BACKLOG_BYTES = 16 << 20
"""Bytes of lines and contents from which on guests wait.

More bridges longer pauses of the disk, and takes more memory, and longer at the end.
"""

BATCH_S = 0.01
"""How long lines are collected before they are written, in seconds.

Nobody waits for it.  Shorter takes Python's lock from requests more often, longer makes a
larger loss when the process is killed.
"""

BATCH_LINES = 341
"""The most lines that are written at once: of each, three parts, and together IOV_MAX (1024)."""

END = b"}\n"
"""The end of each line."""

CLOSE_S = 0.8
"""How long the end of the process waits for the rest to be written, in seconds."""

BEGINNING = b'{"faultline-recording":'
"""How every recording begins, by which it is known."""

SECTOR = 512

RUN = 2
"""Sectors of one byte from which on contents have them as a number of bytes."""

LONG = 16 << 10
"""Bytes of contents in which runs are looked for.

In shorter ones it takes as long as all else that is done to record a write.
"""


def open_recording(directory: str, name: str) -> int:
    """Return a descriptor of a new, empty recording; `name` may be relative to `directory`.

    An older recording is replaced; raises QmpError for any other file that is not
    empty, and if the file cannot be had.
    """
    try:
        fd = os.open(os.path.join(directory, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            found = os.pread(fd, len(BEGINNING), 0)
            if found and found != BEGINNING:
                raise QmpError(f"'{name}' exists, and is no recording that could be replaced")
            os.ftruncate(fd, 0)
        except BaseException:
            os.close(fd)
            raise
    except OSError as exc:
        raise QmpError(f"Could not open '{name}': {reason_of(exc)}") from None
    return fd


def contents(data: bytes) -> bytes:
    """Return the contents of a write as JSON: base64, and [BYTE, COUNT] for long runs of a byte."""
    first, length = data[:1], len(data)
    if data[:SECTOR] == first * min(SECTOR, length) and data == first * length:
        return b"[[%d,%d]]" % (first[0], length)
    if length < LONG:
        return b'["%b"]' % b2a_base64(data, newline=False)
    parts: list[bytes] = []
    start = at = 0
    while at + RUN * SECTOR <= length:
        octet = data[at : at + 1]
        if data[at : at + RUN * SECTOR] != octet * (RUN * SECTOR):
            at += SECTOR
            continue
        end = at + RUN * SECTOR
        while data[end : end + SECTOR] == octet * SECTOR:
            end += SECTOR
        if at > start:
            parts.append(_base64(data[start:at]))
        parts.append(b"[%d,%d]" % (octet[0], end - at))
        start = at = end
    if start < length:
        parts.append(_base64(data[start:]))
    return b"[%b]" % b",".join(parts)


def _base64(data: bytes) -> bytes:
    return b'"%b"' % b2a_base64(data, newline=False)


class Recorder:
    """The lines of a recording on their way to its file (`drive.recording.Lines`).

    `follow` moves the thread that writes to where those that need Python's lock are
    (`gathering`).  `failed` is called with a reason, on that thread, when the file cannot
    be written; `poke` when guests that wait for room may go on.
    """

    def __init__(
        self, fd: int, *, keeps_data: bool, follow: Callable[[], None] = lambda: None
    ) -> None:
        self.keeps_data = keeps_data
        self._follow = follow
        self._fd = fd
        self._lines: deque[tuple[bytes, bytes, bytes]] = deque()
        self._size = 0
        self._changing = threading.Lock()
        self._was_full = False
        self._come = threading.Event()
        self._finished = threading.Event()
        self._closing = False
        self._failed: Callable[[str], None] = lambda _: None
        self._poke: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(
        self, header: str, failed: Callable[[str], None], poke: Callable[[], None]
    ) -> None:
        """Write the first line, and start the thread; raises OSError.

        A machine that is ready has a recording, however soon it is looked at or killed.
        """
        first = header.encode() + END
        _write(self._fd, [first], len(first))
        self._failed, self._poke = failed, poke
        self._thread.start()

    def put(self, line: str, more: bytes = b"") -> None:
        parts = (line.encode(), more, END)
        size = len(line) + len(more) + len(END)
        with self._changing:
            self._size += size
            self._lines.append(parts)
        if not self._come.is_set():
            self._come.set()

    def has_room(self) -> bool:
        if self._size < BACKLOG_BYTES:
            return True
        self._was_full = True
        return False

    def contents(self, data: memoryview) -> bytes:
        return contents(bytes(data))

    def digest(self, data: memoryview) -> int:
        return zlib.crc32(data)

    def finish(self, last: str) -> None:
        """Take the last line, with which the thread ends; it waits for nothing."""
        self.put(last)
        self._finished.set()
        self._come.set()

    def close(self) -> None:
        """Wait until all is written, `CLOSE_S` at most; `finish` was called.

        The second call does not wait.
        """
        if not self._closing and self._thread.is_alive():
            self._closing = True
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while True:
            self._come.wait()
            self._finished.wait(BATCH_S)
            self._come.clear()
            finished = self._finished.is_set()
            self._follow()
            try:
                self._write_all()
            except OSError as exc:
                self._failed(reason_of(exc))
                return
            if finished and not self._lines:
                os.close(self._fd)
                return

    def _write_all(self) -> None:
        while self._lines:
            count = min(len(self._lines), BATCH_LINES)
            parts = [part for _ in range(count) for part in self._lines.popleft()]
            size = sum(map(len, parts))
            _write(self._fd, parts, size)
            with self._changing:
                self._size -= size
            if self._was_full and self._size < BACKLOG_BYTES // 2:
                self._was_full = False
                self._poke()

    def write_end(self, last: str) -> None:
        """Write the last line of a file that took no more, at the place of what did not fit."""
        data = last.encode() + END
        size = os.fstat(self._fd).st_size
        for back in (0, *(SECTOR << step for step in range(8))):
            try:
                os.ftruncate(self._fd, _end_of_lines(self._fd, size - back))
                os.lseek(self._fd, 0, os.SEEK_END)
                _write(self._fd, [data], len(data))
                return
            except OSError:
                continue
        logger.warning("the recording has no last line: there is no room for it")


def _write(fd: int, parts: list[bytes], size: int) -> None:
    """Append all parts, of `size` bytes together; raises OSError."""
    # One call, without Python's lock: requests go on meanwhile.
    done = os.writev(fd, parts)
    if done < size:
        rest = memoryview(b"".join(parts))[done:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def _end_of_lines(fd: int, limit: int) -> int:
    """Return where the last line ends that is whole and not beyond `limit`; 0 without any."""
    at = max(limit, 0)
    while at > 0:
        start = max(at - (64 << 10), 0)
        found = os.pread(fd, at - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0
