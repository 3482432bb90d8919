# SPDX-License-Identifier: MIT
"""Which side of a job has failed: the node it reads from, or the node it writes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockcore.qapi.names import IoOperationType


class SourceError(OSError):
    """An error of the source."""


@contextmanager
def of_source() -> Iterator[None]:
    """Turn an OSError inside the context into a SourceError."""
    try:
        yield
    except OSError as exc:
        raise SourceError(exc.errno, exc.strerror) from None


def side_of(exc: OSError) -> IoOperationType:
    """Return READ if the source failed, WRITE if the target did."""
    return IoOperationType.READ if isinstance(exc, SourceError) else IoOperationType.WRITE
