# SPDX-License-Identifier: MIT
"""One request to have a range copied: by a backup for its whole source, by a guest for a write."""

from __future__ import annotations

from blockcore.bql.effects import Until
from blockcore.rules.ratelimit import RateLimit

MAX_WORKERS = 64
"""How many tasks of one call run at the same time (BLOCK_COPY_MAX_WORKERS)."""


class CopyCall:
    """One request to have a range copied; offsets in bytes (BlockCopyCallState).

    `error` is the first error that was met; a SourceError if the source failed.
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
        """Begin no more tasks; those that have begun go on to their end."""
        self.cancelled = True
        self.wake()

    def wake(self) -> None:
        """End the sleep, because the speed limit is another."""
        self._woken = True

    def over(self) -> bool:
        """Return whether no more tasks are to begin."""
        return self.cancelled or self.error is not None

    def is_finished(self) -> bool:
        return self.finished

    async def sleep(self, deadline_ns: int) -> None:
        """Sleep until the deadline or `wake`; not at all if the call is cancelled.

        Nothing would wake it then.  QEMU sleeps on in this case.
        """
        self._woken = self.cancelled
        await Until(lambda: self._woken, deadline_ns)
