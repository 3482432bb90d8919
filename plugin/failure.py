# SPDX-License-Identifier: MIT
"""How a callback fails without leaving anything behind.

nbdkit fetches the exception that a callback has raised, has its traceback
printed, and forgets that both were handed over to it (check_python_failure in
plugins/python/errors.c, 1.32 as well as 1.42): every error that a client is told
would stay in memory for ever, with the frames it came through and their locals,
and all of them would be looked at once more when the interpreter ends.

So the references that nbdkit does not give back are given back here.  How many
there are, their counts tell: nobody else has a `Failure` and its traceback once
the callback is over.  That is certain on the thread that ran it, when it fails
again, or when its state goes (at the end of the callback or of the thread); with
an nbdkit that has mended this there will be none to give back.
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
    """The answer to a request: raised by a callback, and never kept."""


class _Pair:
    """An exception and its traceback."""

    __slots__ = ("error", "trace")

    def __init__(self, error: BaseException, trace: TracebackType | None) -> None:
        self.error = error
        self.trace = trace


_alone = _Pair(Failure(), None)
_OURS = sys.getrefcount(_alone.error)
"""The count of what only a `_Pair` has, while it is asked for."""


class _Given(_Pair):
    """A failure that nbdkit was given, on this thread; its frames are empty."""

    __slots__ = ()

    def __del__(self) -> None:
        """The callback is over: what is counted besides ours is nbdkit's."""
        self.error.__traceback__ = None
        for _ in range(sys.getrefcount(self.error) - _OURS):
            _give_back(self.error)
        for _ in range(sys.getrefcount(self.trace) - _OURS):
            _give_back(self.trace)


def install(answers: tuple[type[Exception], ...]) -> None:
    """Be what nbdkit prints exceptions with: `answers` in one line, a bug with all it has.

    It is also the one place where the traceback is seen that nbdkit has.
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
