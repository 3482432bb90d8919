# SPDX-License-Identifier: MIT
"""What may come of a driver's part of a request: an outcome, whatever happens in there."""

from __future__ import annotations

import errno
from types import TracebackType

from blockcore.qapi.errnos import failure
from blockcore.qapi.names import QmpError
from blockcore.rules.host import Reports


class Outcome:
    """The context in which a node's driver is called.

    OSError and QmpError are outcomes.  Every other exception is a bug of ours,
    and must not be more than that: whoever is above, a format, a job or a
    guest, has to undo what it had begun, and can do so for an OSError.  It
    becomes EIO, or ENOMEM for want of memory, and is told of.
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
