# SPDX-License-Identifier: MIT
"""Outlives an assertion of nbdkit before 1.34, which any client can make fail.

When a reply cannot be sent because its client is gone, the worker marks the
connection dead and forgets the socket.  Another worker that is about to send a
reply of its own then fails the assertion that there is a socket, and the
process aborts: interrupting one nbdcopy would end the machine for everybody.

abort() raises SIGABRT on the thread that failed, and a handler need not return
from it.  This one ends the thread, as nbdkit itself is about to do with all
workers of a dead connection.  Only the mutex that serializes replies must be
handed on first, to the workers that wait for it and will end the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGABRT = 6
SYS_FUTEX = {"x86_64": "202", "aarch64": "98"}.get(os.uname().machine)
OWNER_OFFSET = 8
"""Of the owner's thread id in glibc's pthread_mutex_t, after the lock word and a count."""

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_libc = ctypes.CDLL(None)
_libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
_libc.signal.restype = ctypes.c_void_p
_libc.pthread_mutex_unlock.argtypes = [ctypes.c_void_p]
_libc.pthread_exit.argtypes = [ctypes.c_void_p]

_handlers: list[Any] = []
"""The C library keeps only their addresses."""


def _awaited_mutexes_of(tid: int) -> Iterator[int]:
    """The addresses of the mutexes that this thread holds and others wait for.

    The kernel tells what system call a thread is in; for one that waits for a
    mutex the first argument is the mutex.  Others wait for a thread to end, at
    an address that may be gone by now, so that it is read through the kernel too.
    """
    with open("/proc/self/mem", "rb") as memory:
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):
                with open(f"/proc/self/task/{task}/syscall") as file:
                    words = file.read().split()
                if len(words) == 9 and words[0] == SYS_FUTEX:
                    address = int(words[1], 16)
                    owner = os.pread(memory.fileno(), 4, address + OWNER_OFFSET)
                    if int.from_bytes(owner, sys.byteorder) == tid:
                        yield address


def install(on_abort: Callable[[], None]) -> None:
    """From now on a worker that fails between two requests ends alone.

    `on_abort` is called first, on that worker.  Any other abort is for the
    handler that was there before.
    """

    def aborted(_signal: int) -> None:
        in_python = sys._getframe().f_back is not None
        if in_python or threading.get_native_id() == os.getpid():
            _libc.signal(SIGABRT, before)
            getattr(_libc, "raise")(SIGABRT)
            return
        on_abort()
        for mutex in set(_awaited_mutexes_of(threading.get_native_id())):
            _libc.pthread_mutex_unlock(mutex)
        _libc.pthread_exit(None)

    _handlers.append(_Handler(aborted))
    before = _libc.signal(SIGABRT, ctypes.cast(_handlers[-1], ctypes.c_void_p))
