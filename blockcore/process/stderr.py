# SPDX-License-Identifier: MIT
"""Descriptor 2 as a pipe of the process's own, whose other end is always read.

Not only the log is written to stderr: so are nbdkit's messages, those of the C
library, and tracebacks.  nbdkit's Python module writes its messages with the
interpreter lock held, so a reader of stderr that stops reading would stop the
machine.  Therefore descriptor 2 becomes a pipe, and a thread passes its lines
on to the log's writer.  The pipe is shared with no other process and does not
block: output that comes faster than the thread reads is lost.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import io
import os
import re
import sys
import threading
from collections.abc import Callable

from blockcore.process.log_writer import CLOSE_S, LogWriter

PIPE_BYTES = 1 << 20
"""The size of the pipe: the most that a process without privileges may have by default
(/proc/sys/fs/pipe-max-size)."""

LINE_BYTES_MAX = 1 << 16
"""The longest line that is passed on as a whole; longer lines come in pieces."""

ASSERTION = re.compile(rb"nbdkit: .*: Assertion `.*' failed\.\n")
"""The message of glibc's assert in nbdkit."""


class Stderr:
    """The process's stderr from here until `close`: descriptor 2 and `sys.stderr`.

    `tell_lost` makes the line that says how many lines were lost.  Lines go to where
    stderr was, or to the descriptor `log`.
    """

    def __init__(self, tell_lost: Callable[[int], bytes], log: int | None = None) -> None:
        self._real = os.dup(2) if log is None else log
        self._before = sys.stderr
        self._told: set[bytes] = set()
        self._reader, writer = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(writer, False)
        self.writer = LogWriter(self._real, tell_lost)
        self._relay = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._relay.start()
        os.dup2(writer, 2)
        os.close(writer)
        self.stream = sys.stderr = LineStream(self.writer.put)
        # To the real stderr: the stacks of a process that crashes would stay in the pipe.
        faulthandler.enable(self._real)

    def close(self) -> None:
        """Write the rest, within 2 `CLOSE_S`; restore the real stderr if that was possible.

        If it was not, nothing can be written to stderr any more.
        """
        # Closes the pipe's last write end, so that the thread reads to its end.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        # With a timeout: another process may have inherited the pipe's write end.
        self._relay.join(CLOSE_S)
        if self.writer.close():
            os.dup2(self._real, 2)
            sys.stderr = self._before

    def _run(self) -> None:
        rest = b""
        while data := os.read(self._reader, LINE_BYTES_MAX):
            *lines, rest = (rest + data).splitlines(keepends=True)
            if rest.endswith(b"\n") or len(rest) > LINE_BYTES_MAX:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._pass_on(line)
        if rest:
            self._pass_on(rest + b"\n")

    def _pass_on(self, line: bytes) -> None:
        """Pass on a line; the message of an assertion only the first time.

        `plugin/survive.py` outlives failed assertions, which any client can cause.
        """
        if ASSERTION.fullmatch(line):
            if line in self._told:
                return
            self._told.add(line)
        self.writer.put(line)


class LineStream(io.TextIOBase):
    """A text stream that hands whole lines to `put`; may be written on any thread."""

    encoding = "utf-8"

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._lock = threading.Lock()
        self._rest = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def write(self, text: str) -> int:
        with self._lock:
            lines, newline, self._rest = (self._rest + text).rpartition("\n")
            if newline:
                self._put((lines + newline).encode(errors="backslashreplace"))
        return len(text)
