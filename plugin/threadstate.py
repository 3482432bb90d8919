"""Keeps the interpreter's state of nbdkit's worker threads alive, and gives it back.

nbdkit brackets every callback in PyGILState_Ensure and _Release.  On a thread
that Python does not know, that makes and destroys a whole thread state for
every request: about 15 us, and six times the cost of a small read.  One more
Ensure on the thread's first request keeps the state; nbdkit starts new workers
for every connection, so that it must be given back when a thread ends, or the
process grows by 6 KiB a thread.  A pthread key with a destructor does that.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

_api = ctypes.pythonapi
_api.PyThreadState_Get.restype = ctypes.c_void_p
_api.PyThreadState_Clear.argtypes = [ctypes.c_void_p]
_api.PyThreadState_Delete.argtypes = [ctypes.c_void_p]
_libc = ctypes.CDLL(None)
_libc.pthread_setspecific.argtypes = [ctypes.c_uint, ctypes.c_void_p]

local = threading.local()
"""For what a worker thread keeps between requests; lives as long as its thread."""

_at_exit: dict[int, Callable[[], None]] = {}


def _thread_ended(state: int) -> None:
    """Called on the dying thread.

    The C library has cleared Python's own key by now, so that this call runs
    in a state of its own, and the kept one may go.
    """
    at_exit = _at_exit.pop(state, None)
    if at_exit is not None:
        at_exit()
    _api.PyThreadState_Clear(state)
    _api.PyThreadState_Delete(state)


_destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_thread_ended)
_key = ctypes.c_uint()
if _libc.pthread_key_create(ctypes.byref(_key), _destructor) != 0:
    raise OSError("pthread_key_create")


def keep(at_exit: Callable[[], Any]) -> None:
    """Keep the state of this thread until it ends; `at_exit` is called then."""
    _api.PyGILState_Ensure()
    state = _api.PyThreadState_Get()
    _at_exit[state] = at_exit
    _libc.pthread_setspecific(_key, state)
