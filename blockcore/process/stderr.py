# SPDX-License-Identifier: MIT
"""Descriptor 2, turned into a pipe of our own whose other end is always read.

More than the log is written there, by whoever is in the process: nbdkit's
messages (its Python module writes them with the interpreter's lock held), the C
library's, tracebacks.  None of them may wait for the reader of the real stderr
either, so that all go to the log's writer.  The pipe is not shared with anybody
and does not block: what comes faster than it is read is lost.
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
"""As much as everybody may ask for (/proc/sys/fs/pipe-max-size)."""

LINE_BYTES_MAX = 1 << 16
"""A line that is longer is passed on in pieces."""

ASSERTION = re.compile(rb"nbdkit: .*: Assertion `.*' failed\.\n")


class Stderr:
    """The process's stderr until `close`; `tell_lost` makes the line about lost ones."""

    def __init__(self, tell_lost: Callable[[int], bytes]) -> None:
        self._real = os.dup(2)
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
        # The last words of a process that crashes would stay in the pipe.
        faulthandler.enable(self._real)

    def close(self) -> None:
        """Write what is left, if that goes at once, and give the real stderr back then."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        # Another process may have inherited the pipe.
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
        """Hand on a line; an assertion that `plugin/survive.py` outlives only once."""
        if ASSERTION.fullmatch(line):
            if line in self._told:
                return
            self._told.add(line)
        self.writer.put(line)


class LineStream(io.TextIOBase):
    """A text stream whose lines go to `put`, whoever writes them."""

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
