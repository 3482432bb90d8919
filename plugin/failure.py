# SPDX-License-Identifier: MIT
"""The exception by which a callback fails, without the memory leak of nbdkit.

nbdkit fetches the exception that a callback has raised, formats its traceback,
and does not release its references to either (check_python_failure in
plugins/python/errors.c, 1.32 as well as 1.42).  Every error that a client gets
would stay in memory for ever, with all frames of its traceback and their
variables.  The interpreter would also go through all of them at its end.

So the references that nbdkit leaks are released here.  Their number is what the
reference counts show beyond our own: when the callback is over, nothing else
refers to a `Failure` and its traceback.  A callback is certainly over when its
thread fails again, or when the thread's state goes, at the end of the callback
or of the thread.  With an nbdkit that releases its references there is nothing
to release here.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import traceback
from types import TracebackType

_give_back = ctypes.pythonapi.Py_DecRef
_give_back.argtypes = [ctypes.py_object]
_give_back.restype = None

_format_exception = traceback.format_exception
_thread = threading.local()


class Failure(OSError):
    """The error that a client gets; raised by a callback only, and stored nowhere."""


class _Pair:
    """An exception and its traceback."""

    __slots__ = ("error", "trace")

    def __init__(self, error: BaseException, trace: TracebackType | None) -> None:
        self.error = error
        self.trace = trace


_alone = _Pair(Failure(), None)
_OURS = sys.getrefcount(_alone.error)
"""The count of an object to which only a `_Pair` refers, while `getrefcount` is called on it."""


class _Given(_Pair):
    """A failure that nbdkit has got on this thread; its frames have no variables any more.

    It is stored in the thread's local variables until the thread fails again or ends.
    """

    __slots__ = ()

    def __del__(self) -> None:
        """Release the references that nbdkit has leaked; the callback is over."""
        # The exception refers to its traceback, which would count.
        self.error.__traceback__ = None
        for _ in range(sys.getrefcount(self.error) - _OURS):
            _give_back(self.error)
        for _ in range(sys.getrefcount(self.trace) - _OURS):
            _give_back(self.trace)


def install(answers: tuple[type[Exception], ...]) -> None:
    """Replace `traceback.format_exception`, with which nbdkit formats exceptions.

    Exceptions of the types `answers` become one line; others are bugs and keep
    their traceback.  This is the only place that gets hold of the traceback to
    which nbdkit refers, so it also notes each failure for release (`_Given`).
    """

    def format_exception(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> list[str]:
        if isinstance(error, Failure):
            traceback.clear_frames(trace)
            _thread.given = _Given(error, trace)
        if isinstance(error, answers):
            return [str(error)]
        return _format_exception(kind, error, trace)

    traceback.format_exception = format_exception  # type: ignore[assignment]
