# SPDX-License-Identifier: MIT
"""One wish to have a range copied: by a backup for all of its source, by a guest for a write."""

from __future__ import annotations

from blockcore.bql.effects import Until
from blockcore.rules.ratelimit import RateLimit

MAX_WORKERS = 64
"""How many parts one call has on their way (BLOCK_COPY_MAX_WORKERS)."""


class CopyCall:
    """One wish to have a range copied; offsets in bytes.

    `error` is the first that was met; a SourceError if it was the source that failed.
    """

    def __init__(
        self, offset: int, end: int, *, max_workers: int = MAX_WORKERS, max_chunk: int = 0
    ) -> None:
        self.offset = offset
        self.end = end
        self.max_workers = max_workers
        self.max_chunk = max_chunk
        self.limit: RateLimit | None = None
        self.cancelled = False
        self.finished = False
        self.error: OSError | None = None
        self.running = 0
        self._woken = False

    def cancel(self) -> None:
        """Begin nothing more; what has begun goes on to its end."""
        self.cancelled = True
        self.wake()

    def wake(self) -> None:
        """Do not sleep any longer: the speed limit is another."""
        self._woken = True

    def over(self) -> bool:
        """Whether nothing more is to be begun."""
        return self.cancelled or self.error is not None

    def is_finished(self) -> bool:
        return self.finished

    async def sleep(self, deadline_ns: int) -> None:
        """Not for one that is cancelled: nobody wakes it any more (in QEMU it sleeps)."""
        self._woken = self.cancelled
        await Until(lambda: self._woken, deadline_ns)
