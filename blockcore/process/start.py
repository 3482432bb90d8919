# SPDX-License-Identifier: MIT
"""The start of the process: signals, the parent, files to remove, and checks of limits.

A start that fails, or that a signal ends, prints one line at most and leaves no
files behind.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from blockcore.process import signals
from blockcore.process.leftovers import Leftovers
from blockcore.process.recursion import stack_bytes
from blockcore.qapi.names import QmpError

SPARE_DESCRIPTORS = 32
"""Descriptors that must be free to serve: for the main loop, nbdkit's socket, and some clients."""

SPARE_THREADS = 32
"""Threads that must have room to serve: the machine's, and those of its first connection."""

SPARE_BYTES = 16 << 20
"""Bytes of address space that must be free besides the stacks of these threads."""


class Start:
    """The start of one process; made before anything else.

    `environ` has the variables that `faultline serve` sets (`cli/nbdkit_command.py`).
    `parent` is a pidfd of the process with whose end this one ends, or -1;
    FAULTLINE_PARENT_FD takes precedence.  `take_default` gives a signal its default
    action, on any thread.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        parent: int = -1,
        take_default: Callable[[int], object] = int,
    ) -> None:
        self.leftovers = Leftovers(environ)
        self.parent = int(environ.get("FAULTLINE_PARENT_FD", parent))
        self._serving = "FAULTLINE_SERVE" in environ
        self._signals = signals.SignalWatch(self._told)
        self._errors: TextIO | None = None
        self._signal = 0
        self._end: Callable[..., None] | None = None
        self._deciding = threading.Lock()
        self._take_default = take_default

    def begin(self, environ: Mapping[str, str]) -> None:
        """Take over signals and uncaught exceptions, under `faultline serve`; before all else.

        Without `serve` nbdkit may fork, so signals are nbdkit's until `forked`.
        """
        if self._serving:
            signals.unhandle_interrupt()
            self._signals.block()
            signals.discard_sigterm_of_late(int(environ.get("FAULTLINE_PARENT", "0")))
            self._signals.start()
            sys.excepthook = lambda kind, error, trace: self.failed(error)

    def failed(self, error: str | BaseException, what: str | None = None) -> None:
        """Remove all files, and print why the start failed, under `faultline serve` only.

        Without `serve` nbdkit prints it.  The line begins with `what`, if given.  An
        exception that is no failure of the system (`reason_of`) is a bug, and
        printed with its traceback.
        """
        self.leftovers.remove()
        if not self._serving:
            return
        line = error if isinstance(error, str) else reason_of(error)
        with suppress(OSError):
            if line is None:
                assert isinstance(error, BaseException)
                traceback.print_exception(error)
            else:
                text = ": ".join(filter(None, ("faultline", what, line)))
                print(text, file=self._errors or sys.stderr)

    @contextmanager
    def failures_on_stderr(self) -> Iterator[None]:
        """Let failures within the body go to stderr as it is now, not to the log's file."""
        with open(os.dup(2), "w", errors="backslashreplace") as self._errors:
            yield
        self._errors = None

    def forked(self) -> None:
        """Take over signals and the NBD socket's file, now that nbdkit will not fork any more.

        On nbdkit's main thread, before other threads are started.
        """
        self.leftovers.add_nbd_socket()
        self._signals.block()

    def serves(self, end: Callable[..., None]) -> None:
        """Let signals, and the end of the parent, call `end(reason=...)` from now on.

        `end` is called on the thread that has noticed it.
        """
        with self._deciding:
            self._end = end
        self._signals.start()
        if self.parent >= 0:
            threading.Thread(
                target=self._watch_parent, args=(end,), name="parent", daemon=True
            ).start()

    def _told(self, number: int, sender: int) -> None:
        """Let a signal end the machine; one that comes before the machine serves kills it.

        Then all files are removed first.
        """
        with self._deciding:
            end = self._end
            if end is None:
                self._die(number)
                return
        end(reason=signals.name(number), sender=sender)

    def _die(self, number: int) -> None:
        # Meanwhile the main thread goes on, but not beyond `serves`.  It may find that the
        # directory of its sockets is gone, and tell that; then it exits, and comes to `exits`.
        self._signal = number
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        self.leftovers.remove()
        self._die_of(number)

    def _die_of(self, number: int) -> None:
        # nbdkit may have a handler of its own by now.
        self._take_default(number)
        signals.die_of(number)

    def exits(self) -> None:
        """Remove all files at an exit of nbdkit's; if that is a signal's doing, die of the signal.

        To be called by exit(), on nbdkit's main thread.
        """
        self.leftovers.remove()
        if self._signal:
            self._die_of(self._signal)

    def _watch_parent(self, end: Callable[..., Any]) -> None:
        """Wait for the parent's end, then call `end` (a thread's body)."""
        # A pidfd is readable once the whole process has ended.  PR_SET_PDEATHSIG, which nbdkit
        # uses, watches the thread that has started this process.
        poller = select.poll()
        poller.register(self.parent, select.POLLIN)
        poller.poll()
        end(reason="the parent process has ended")


def require_descriptors() -> None:
    """Raise QmpError if fewer than `SPARE_DESCRIPTORS` descriptors are free.

    With fewer the machine could start, but not serve its first clients.
    """
    spare: list[int] = []
    try:
        for _ in range(SPARE_DESCRIPTORS):
            # One by one: if one fails, those made before it have to be closed.
            spare.append(os.dup(0))  # noqa: PERF401
    except OSError:
        raise QmpError(f"{SPARE_DESCRIPTORS} more descriptors are needed (ulimit -n)") from None
    finally:
        for descriptor in spare:
            os.close(descriptor)


def require_address_space() -> None:
    """Raise QmpError if too little address space is free to serve (RLIMIT_AS)."""
    needed = SPARE_THREADS * stack_bytes() + SPARE_BYTES
    try:
        # PROT_NONE: the mapping takes address space only, and no memory.
        mmap.mmap(-1, needed, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except OSError:
        raise QmpError(f"{needed >> 20} MiB more of address space are needed (ulimit -v)") from None


def reason_of(error: BaseException) -> str | None:
    """Return what the system lacks or refuses, as text; None if the error is a bug of ours."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, MemoryError):
        return os.strerror(12)
    if isinstance(error, RuntimeError) and "thread" in str(error):
        return str(error)
    return None
