# SPDX-License-Identifier: MIT
"""Keeps the interpreter's state of nbdkit's worker threads alive, and gives it back.

nbdkit brackets every callback in PyGILState_Ensure and _Release.  On a thread
that Python does not know, that makes and destroys a whole thread state for
every request: about 15 us, and six times the cost of a small read.  One more
Ensure on the thread's first request keeps the state; nbdkit starts new workers
for every connection, so that it must be given back when a thread ends, or the
process grows by 6 KiB a thread.

The C library's list of what a thread has to destroy (`__cxa_thread_atexit_impl`,
for C++'s thread_local) does that.  It is worked off before any thread-specific
key is cleared, Python's own among them (glibc's start_thread: __call_tls_dtors,
then __nptl_deallocate_tsd; the same for pthread_exit).  So the call back into
Python still runs in the kept state, and one more Release is all that is to do.
The destructor of a pthread key comes too late: Python's key is gone by then,
and since 3.12 deleting the kept state clears the binding of the state that the
call back runs in, which ends the process ("PyGILState_Release: auto-releasing
thread-state, but no thread-state for this thread").
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

_LOCKED = 0
"""PyGILState_LOCKED: the caller has the interpreter lock, and keeps it."""

_api = ctypes.pythonapi
_libc = ctypes.CDLL(None)
_libc.__cxa_thread_atexit_impl.argtypes = [ctypes.c_void_p] * 3

local = threading.local()
"""For what a worker thread keeps between requests; lives as long as its thread."""

_at_exit: dict[int, Callable[[], None]] = {}
_numbers = count(1)


def _thread_ends(number: int) -> None:
    """Called on the dying thread, in its kept state.

    This call has been counted when it began: the state goes when it returns.
    """
    _at_exit.pop(number)()
    _api.PyGILState_Release(_LOCKED)


_destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_thread_ends)


def keep(at_exit: Callable[[], Any]) -> None:
    """Keep the state of this thread until it ends; `at_exit` is called then."""
    number = next(_numbers)
    _at_exit[number] = at_exit
    if _libc.__cxa_thread_atexit_impl(_destructor, number, _api.PyGILState_Release) != 0:
        del _at_exit[number]
        raise OSError("__cxa_thread_atexit_impl")
    _api.PyGILState_Ensure()
