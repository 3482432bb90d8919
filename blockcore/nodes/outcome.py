# SPDX-License-Identifier: MIT
"""The context that turns a bug in a driver into the failure of one request."""

from __future__ import annotations

import errno
from types import TracebackType

from blockcore.qapi.errnos import failure
from blockcore.qapi.names import QmpError
from blockcore.rules.host import Reports


class Outcome:
    """The context in which a node's driver is called.

    OSError and QmpError pass.  Every other exception is a bug of this program.  It
    is reported and becomes OSError, EIO or (MemoryError) ENOMEM, because the caller,
    a format, a job or a guest's request, can undo what it has begun on an OSError.
    """

    __slots__ = ("_host", "_where")

    def __init__(self, host: Reports, where: str) -> None:
        self._host = host
        self._where = where

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, (OSError, QmpError)):
            self._host.bug(self._where, error)
            number = errno.ENOMEM if isinstance(error, MemoryError) else errno.EIO
            raise failure(number) from None
