# SPDX-License-Identifier: MIT
"""The log, written by a thread of its own: what serves never waits for who reads it.

A pipe that nobody reads, a terminal that is stopped, a full disk: lines wait in
a bounded `Backlog`, and those that find no room there, or cannot be written,
are counted and told of when writing works again.  The descriptor is written to
as it is: O_NONBLOCK would hold for all who share it, such as the shell.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

BACKLOG_BYTES = 1 << 20
"""Lines that wait for a reader; beyond them they are lost."""

CLOSE_S = 0.1
"""For what still waits at the end: time enough for a reader that reads."""

NOTHING = (0, b"")


class Backlog:
    """Lines in their order, each with how many were lost before it."""

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
        """Remove what comes first: how many lines were lost, and then a line.

        After the last line there may be a number alone.
        """
        if self._lines:
            lost, line = self._lines.popleft()
            self._size -= len(line)
            return lost, line
        lost, self._lost = self._lost, 0
        return lost, b""

    def lose(self, lines: int) -> None:
        """So many that were taken could not be written."""
        if self._lines:
            lost, line = self._lines[0]
            self._lines[0] = lost + lines, line
        else:
            self._lost += lines

    def is_worth_a_try(self, failing: bool) -> bool:
        """Whether to write now, if the last attempt failed or did not.

        What was lost alone can be told no more than it could be written, a
        moment ago.
        """
        return bool(self._lines) or (self._lost > 0 and not failing)


class LogWriter:
    """Writes lines to a descriptor, in order; `tell_lost` makes the line about lost ones."""

    def __init__(self, fd: int, tell_lost: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._tell_lost = tell_lost
        self._backlog = Backlog()
        self._changed = threading.Condition()
        self._closed = False
        self._within_line = False
        self._failing = False
        # A daemon: one that is stuck must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Take a line, which ends with a line feed; never waits, never raises."""
        with self._changed:
            self._backlog.put(line)
            self._changed.notify()

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Write what is left if that takes no longer than this; whether it is done."""
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
        """Wait for something to write; NOTHING at the end."""
        with self._changed:
            while not self._backlog.is_worth_a_try(self._failing) and not self._closed:
                self._changed.wait()
            return self._backlog.take()

    def _write(self, line: bytes) -> bool:
        """Write all of it; False if that fails."""
        data = memoryview(b"\n" + line if self._within_line else line)
        try:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # another process has made it so for all
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
