# SPDX-License-Identifier: MIT
"""Which side of a job has failed: the node it reads from, or the node it writes to."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from blockcore.qapi.names import IoOperationType

T = TypeVar("T")


class SourceError(OSError):
    """An error of the source."""


async def of_source(request: Awaitable[T]) -> T:
    """Await a request to the source; raise SourceError in place of its OSError.

    Not a context manager of contextlib: on Python 3.13 an exception that leaves one
    is in a cycle with its frames, which only the collector would free.
    """
    try:
        return await request
    except OSError as exc:
        raise SourceError(exc.errno, exc.strerror) from None


def side_of(exc: OSError) -> IoOperationType:
    """Return READ if the source failed, WRITE if the target did."""
    return IoOperationType.READ if isinstance(exc, SourceError) else IoOperationType.WRITE
