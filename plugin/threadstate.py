# SPDX-License-Identifier: MIT
"""The interpreter's state of each worker thread of nbdkit: kept between requests, then released.

nbdkit calls PyGILState_Ensure before and PyGILState_Release after every
callback.  On a thread that Python does not know, this makes and destroys a
thread state for every request, which takes about 15 us: six times as long as a
small read.  One additional Ensure on the thread's first request keeps the state.
nbdkit starts new workers for every connection, so the state must be released
when a thread ends, or the process grows by 6 KiB per thread.

A destructor in the C library's list for the thread (`__cxa_thread_atexit_impl`,
made for C++'s thread_local) releases it.  glibc calls these destructors before
it clears the thread-specific keys, Python's own key among them (start_thread:
__call_tls_dtors, then __nptl_deallocate_tsd; pthread_exit likewise).  So the
destructor's call into Python still runs in the kept state, and all it has to do
is one more Release.  The destructor of a pthread key would come too late, after
Python's key is cleared: since Python 3.12 deleting the kept state would then
clear the binding of the state in which the call runs, which ends the process
("PyGILState_Release: auto-releasing thread-state, but no thread-state for this
thread").
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

_LOCKED = 0
"""PyGILState_LOCKED: the state to release to is one with the interpreter lock held."""

_api = ctypes.pythonapi
_libc = ctypes.CDLL(None)
_libc.__cxa_thread_atexit_impl.argtypes = [ctypes.c_void_p] * 3

local = threading.local()
"""Variables that a worker thread keeps between requests, until it ends."""

_at_exit: dict[int, Callable[[], None]] = {}
"""What to call when a thread ends, by a number that the C library passes on as a pointer."""
_numbers = count(1)


def _thread_ends(number: int) -> None:
    """Call the thread's `at_exit`, and release its state; on the thread that ends.

    ctypes has called Ensure for this call, so the state lasts until it returns.
    """
    _at_exit.pop(number)()
    _api.PyGILState_Release(_LOCKED)


_destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_thread_ends)


def keep(at_exit: Callable[[], Any]) -> None:
    """Keep this thread's state until the thread ends; `at_exit` is called then, on the thread.

    Raises OSError if the C library has no memory for the destructor.
    """
    number = next(_numbers)
    _at_exit[number] = at_exit
    # The last argument is a dso_handle, an address in the library that has to stay loaded.
    if _libc.__cxa_thread_atexit_impl(_destructor, number, _api.PyGILState_Release) != 0:
        del _at_exit[number]
        raise OSError("__cxa_thread_atexit_impl")
    _api.PyGILState_Ensure()
