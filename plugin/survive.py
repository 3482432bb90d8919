# SPDX-License-Identifier: MIT
"""A handler that survives an assertion of nbdkit before 1.34, which any client can make fail.

When a reply cannot be sent because the client is gone, the worker marks the
connection dead and forgets the socket.  Another worker of the connection that
is about to send a reply then fails the assertion that there is a socket, and
the process aborts: interrupting one nbdcopy would end the machine for all
clients.

abort() raises SIGABRT on the thread that failed, and a handler need not return.
This handler ends the thread, as nbdkit is about to do with all workers of a dead
connection.  First it unlocks the mutex that serializes replies, for the workers
that wait for it; they fail and end in the same way.
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
"""The number of futex(2), as in /proc/PID/task/TID/syscall; None for other machines."""
OWNER_OFFSET = 8
"""The offset of the owner's thread id in glibc's pthread_mutex_t, after the lock word and a
count, in bytes."""

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_libc = ctypes.CDLL(None)
_libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
_libc.signal.restype = ctypes.c_void_p
_libc.pthread_mutex_unlock.argtypes = [ctypes.c_void_p]
_libc.pthread_exit.argtypes = [ctypes.c_void_p]

_handlers: list[Any] = []
"""The handlers.  The C library keeps only their addresses, so they are kept alive here."""


def _awaited_mutexes_of(tid: int) -> Iterator[int]:
    """Yield the addresses of the mutexes that a thread holds and other threads wait for.

    /proc tells the system call that a thread is in.  A thread that waits for a
    mutex is in futex(2), and the first argument is the mutex's address.  Other
    threads may be in futex(2) for another reason, at an address that is unmapped
    by now.  So addresses are read by /proc/self/mem, where that is an error.
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
    """Install the handler: from now on a worker that fails an assertion ends alone.

    `on_abort` is called first, on that worker.  Every other abort goes to the
    handler that was there before: an abort inside a callback, or on the main
    thread, is no failed reply of a worker.
    """

    def aborted(_signal: int) -> None:
        # The reply is sent after the callback, so there are no frames of Python below this one.
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
