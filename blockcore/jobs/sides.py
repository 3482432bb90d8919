# SPDX-License-Identifier: MIT
"""Which side of a job has failed: what is read from, or what is written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockcore.qapi.names import IoOperationType


class SourceError(OSError):
    """It was the source that failed."""


@contextmanager
def of_source() -> Iterator[None]:
    """Make an OSError a SourceError."""
    try:
        yield
    except OSError as exc:
        raise SourceError(exc.errno, exc.strerror) from None


def side_of(exc: OSError) -> IoOperationType:
    """Return READ if it was the source that failed, else WRITE."""
    return IoOperationType.READ if isinstance(exc, SourceError) else IoOperationType.WRITE
