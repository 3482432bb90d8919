# SPDX-License-Identifier: MIT
"""The thread that writes the log, so that no other thread waits for the log's reader.

The reader may be a pipe that nobody reads, a terminal that is stopped, or a full
disk.  Lines wait in a bounded `Backlog`.  Lines that find no room there, or
cannot be written, are counted, and a line says how many were lost once writing
works again.  The descriptor stays in blocking mode: O_NONBLOCK would change it
for all processes that share it, such as the shell.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

BACKLOG_BYTES = 1 << 20
"""The most bytes of lines that wait to be written; further lines are lost.

More bridges longer pauses of the reader, and takes more memory.
"""

CLOSE_S = 0.1
"""How long the end of the process waits for the rest to be written, in seconds.

Enough for a reader that reads; a reader that does not delays the end by it.
"""

NOTHING = (0, b"")
"""What `_next` returns at the end: no lost lines, no line."""


class Backlog:
    """Lines in order, each with the number of lines lost before it; not thread-safe."""

    def __init__(self, limit: int = BACKLOG_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._lines: deque[tuple[int, bytes]] = deque()
        self._lost = 0

    def put(self, line: bytes) -> None:
        """Append a line, or lose it if there is no room."""
        if self._size + len(line) > self._limit:
            self._lost += 1
            return
        self._size += len(line)
        self._lines.append((self._lost, line))
        self._lost = 0

    def take(self) -> tuple[int, bytes]:
        """Remove and return the first entry: the number of lines lost, and the line after them.

        When no line is left, the line is empty.
        """
        if self._lines:
            lost, line = self._lines.popleft()
            self._size -= len(line)
            return lost, line
        lost, self._lost = self._lost, 0
        return lost, b""

    def lose(self, lines: int) -> None:
        """Count lines that were taken but could not be written."""
        if self._lines:
            lost, line = self._lines[0]
            self._lines[0] = lost + lines, line
        else:
            self._lost += lines

    def is_worth_a_try(self, failing: bool) -> bool:
        """Return whether there is anything worth writing now.

        `failing` says that the last write failed.  Then a message about lost lines
        alone is not worth a try: it would fail as well, and be tried endlessly.
        """
        return bool(self._lines) or (self._lost > 0 and not failing)


class LogWriter:
    """A thread that writes lines to a descriptor, in order.

    `tell_lost` makes the line that says how many lines were lost.
    """

    def __init__(self, fd: int, tell_lost: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._tell_lost = tell_lost
        self._backlog = Backlog()
        self._changed = threading.Condition()
        self._closed = False
        self._within_line = False
        self._failing = False
        # A daemon: a writer that is stuck must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queue a line, which ends with a line feed; on any thread, never waits or raises."""
        with self._changed:
            self._backlog.put(line)
            self._changed.notify()

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Write the rest within `timeout_s` seconds; return whether all of it is done with."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (taken := self._next()) != NOTHING:
            lost, line = taken
            if lost and self._write(self._tell_lost(lost)):
                lost = 0
            self._failing = lost > 0 or not self._write(line)
            if self._failing:
                with self._changed:
                    self._backlog.lose(lost + bool(line))
                    if self._closed:
                        return

    def _next(self) -> tuple[int, bytes]:
        """Wait for the next entry to write, and return it; NOTHING at the end."""
        with self._changed:
            while not self._backlog.is_worth_a_try(self._failing) and not self._closed:
                self._changed.wait()
            return self._backlog.take()

    def _write(self, line: bytes) -> bool:
        """Write a whole line; return False if that fails, perhaps after a part of it."""
        # A line that failed in the middle is ended first, so that this one is not glued to it.
        data = memoryview(b"\n" + line if self._within_line else line)
        try:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # another process has set O_NONBLOCK, which all share
                    self._wait_for_room()
                    continue
                self._within_line = bool(data)
        except OSError:
            return False
        return True

    def _wait_for_room(self) -> None:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        poller.poll()
