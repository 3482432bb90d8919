# SPDX-License-Identifier: MIT
"""The end of the process: with its parent only if the user asks for it, and by exit().

nbdkit 1.32 asks the kernel for SIGTERM at the death of its parent, with or
without --exit-with-parent (server/main.c calls set_exit_with_parent in any case).
The kernel sends it when the *thread* ends that has started the process.  So a
machine that was started by a thread of a test, or by a shell, would end with
that thread or shell.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from typing import Any

PR_SET_PDEATHSIG = 1

EXIT_WITH_PARENT = "--exit-with-parent"
SHORTEST = "--exi"
"""The shortest form of --exit-with-parent that getopt_long accepts: its beginning, as long as no
other option begins like that (--exportname)."""

_libc = ctypes.CDLL(None)
_libc.__cxa_atexit.argtypes = [ctypes.c_void_p] * 3
_libc.__cxa_finalize.argtypes = [ctypes.c_void_p]
_libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
_libc.signal.restype = ctypes.c_void_p

_handle = ctypes.create_string_buffer(1)
"""An object whose address identifies our exit handlers to the C library (its `dso_handle`)."""

_callbacks: list[Any] = []
"""The exit handlers.  The C library keeps only their addresses, so they are kept alive here."""


def outlive() -> int:
    """Undo nbdkit's request for SIGTERM at the parent's death (PR_SET_PDEATHSIG).

    Returns a pidfd of the parent if nbdkit was told --exit-with-parent, else -1.
    """
    _libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().split(b"\0")[1:]
    if not is_told_to_exit(map(os.fsdecode, words)):
        return -1
    return os.pidfd_open(os.getppid())


def is_told_to_exit(words: Iterable[str]) -> bool:
    """Return whether --exit-with-parent is among nbdkit's arguments."""
    return any(word.startswith(SHORTEST) and EXIT_WITH_PARENT.startswith(word) for word in words)


def take_default(number: int) -> None:
    """Give a signal its default action again, which nbdkit may have replaced; on any thread.

    Python's own `signal.signal` works on the main thread only.
    """
    _libc.signal(number, None)


def at_exit(work: Callable[[], None]) -> None:
    """Run `work` when nbdkit calls exit(), as it does after any failure, without a callback."""
    _callbacks.append(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: work()))
    _libc.__cxa_atexit(_callbacks[-1], None, ctypes.addressof(_handle))


def at_exit_no_more() -> None:
    """Run the work of `at_exit` now; later there is no interpreter to run it."""
    _libc.__cxa_finalize(ctypes.addressof(_handle))
