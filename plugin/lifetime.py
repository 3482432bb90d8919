# SPDX-License-Identifier: MIT
"""Ends with whom its user wants it to end, and sees a way out of nbdkit's that has no callback.

nbdkit 1.32 asks the kernel for SIGTERM at the death of its parent whether or not
it is told --exit-with-parent (server/main.c calls set_exit_with_parent in any
case), and the kernel means the parent's *thread*: what a thread of a test starts,
or a shell that ends, would be gone with it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1

EXIT_WITH_PARENT = "--exit-with-parent"
SHORTEST = "--exi"
"""getopt_long takes every beginning that no other option has (--exportname)."""

_libc = ctypes.CDLL(None)
_libc.__cxa_atexit.argtypes = [ctypes.c_void_p] * 3
_libc.__cxa_finalize.argtypes = [ctypes.c_void_p]

_handle = ctypes.create_string_buffer(1)
"""Its address is what the C library knows our exit handler by."""

_callbacks: list[Any] = []
"""The C library keeps only their addresses."""


def outlive() -> int:
    """Stay when the parent ends; a pidfd of it where nbdkit's user wants the opposite, else -1."""
    _libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
    words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[1:]
    if not is_told_to_exit(map(os.fsdecode, words)):
        return -1
    return os.pidfd_open(os.getppid())


def is_told_to_exit(words: Iterable[str]) -> bool:
    """Whether --exit-with-parent is among nbdkit's arguments."""
    return any(word.startswith(SHORTEST) and EXIT_WITH_PARENT.startswith(word) for word in words)


def at_exit(work: Callable[[], None]) -> None:
    """Have `work` done when nbdkit calls exit(): for it that is the way out of every failure."""
    _callbacks.append(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: work()))
    _libc.__cxa_atexit(_callbacks[-1], None, ctypes.addressof(_handle))


def at_exit_no_more() -> None:
    """Do it now instead: soon there is no interpreter that could."""
    _libc.__cxa_finalize(ctypes.addressof(_handle))
