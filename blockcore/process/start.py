# SPDX-License-Identifier: MIT
"""A process until it serves, and after that what it began with: who may end it, and what is left.

A start that fails, or that is told to end, says one line at most and leaves
nothing behind.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from blockcore.process import signals
from blockcore.process.leftovers import Leftovers
from blockcore.process.recursion import stack_bytes
from blockcore.qapi.names import QmpError

SPARE_DESCRIPTORS = 32
"""For the machine's threads, nbdkit's socket, and the first clients."""

SPARE_THREADS = 32
"""The machine's, and those of its first connection."""

SPARE_BYTES = 16 << 20
"""For what these allocate."""


class Start:
    """One per process, made before anything else; what `faultline serve` says is in `environ`.

    `parent` is a pidfd of the process with which this one ends, -1 for none.
    """

    def __init__(self, environ: Mapping[str, str], parent: int = -1) -> None:
        self.leftovers = Leftovers(environ)
        self._parent = int(environ.get("FAULTLINE_PARENT_FD", parent))
        self._serving = "FAULTLINE_SERVE" in environ
        self._signals = signals.SignalWatch(self._told)

    def begin(self, environ: Mapping[str, str]) -> None:
        """Take the signals, first of all, and what else ends the process before it serves.

        Where nbdkit may fork that has to wait, and signals are its own until then.
        """
        if self._serving:
            signals.unhandle_interrupt()
            self._signals.block()
            signals.discard_sigterm_of_late(int(environ.get("FAULTLINE_PARENT", "0")))
            self._signals.start()
            sys.excepthook = lambda kind, error, trace: self.failed(error)

    def failed(self, error: str | BaseException, what: str | None = None) -> None:
        """Leave nothing behind, and say why; nbdkit, which would, is silent under `serve`.

        What is not a failure of the system is a bug, and told with its trace.
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
                print(": ".join(filter(None, ("faultline", what, line))), file=sys.stderr)

    def forked(self) -> None:
        """nbdkit forks no more; on its main thread, before others are started."""
        self.leftovers.add_nbd_socket()
        self._signals.block()

    def serves(self, end: Callable[..., None]) -> None:
        """It serves from now on; `end` is called, with the reason, when it is to end."""

        def told(number: int, sender: int) -> None:
            end(reason=signals.name(number), sender=sender)

        self._signals.told = told
        self._signals.start()
        if self._parent >= 0:
            threading.Thread(
                target=self._watch_parent, args=(end,), name="parent", daemon=True
            ).start()

    def _told(self, number: int, _sender: int) -> None:
        """A signal before it serves does what it would do to any program."""
        self.leftovers.remove()
        signals.die_of(number)

    def _watch_parent(self, end: Callable[..., Any]) -> None:
        """A pidfd can be read from when the process, and not just a thread of it, has ended."""
        poller = select.poll()
        poller.register(self._parent, select.POLLIN)
        poller.poll()
        end(reason="the parent process has ended")


def require_descriptors() -> None:
    """QmpError if there are too few left to serve.

    With some the machine would begin, and stop answering at its first client.
    """
    spare: list[int] = []
    try:
        for _ in range(SPARE_DESCRIPTORS):
            # One by one: those before the one that fails are to be closed.
            spare.append(os.dup(0))  # noqa: PERF401
    except OSError:
        raise QmpError(f"{SPARE_DESCRIPTORS} more descriptors are needed (ulimit -n)") from None
    finally:
        for descriptor in spare:
            os.close(descriptor)


def require_address_space() -> None:
    """QmpError if there is too little left to serve; nothing is taken of what is limited else."""
    needed = SPARE_THREADS * stack_bytes() + SPARE_BYTES
    try:
        mmap.mmap(-1, needed, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except OSError:
        raise QmpError(f"{needed >> 20} MiB more of address space are needed (ulimit -v)") from None


def reason_of(error: BaseException) -> str | None:
    """What the system lacks or refuses; None for a bug of ours."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, MemoryError):
        return os.strerror(12)
    if isinstance(error, RuntimeError) and "thread" in str(error):
        return str(error)
    return None
