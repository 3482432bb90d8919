# SPDX-License-Identifier: MIT
"""Guests' writes that go to the target as well: a mirror with copy-mode=write-blocking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from blockcore.job.job import Progress
from blockcore.jobs.mirror.copier import Copier, Op
from blockcore.jobs.mirror.filter import ToTarget
from blockcore.rules.ranges import align_down, align_up


class ActiveWrites:
    """The object that mirror_top calls for guests' writes, once the copying has begun.

    `wanted` tells whether writes are to be copied.  `failed` receives errors of the
    target: no guest's request fails for these.  `missed` is called for writes that were
    not copied.
    """

    def __init__(
        self,
        copier: Copier,
        progress: Progress,
        wanted: Callable[[], bool],
        failed: Callable[[OSError], None],
        missed: Callable[[], None],
    ) -> None:
        self.bytes_in_flight = 0
        self.wanted = wanted
        self._copier = copier
        self._progress = progress
        self._failed = failed
        self.missed = missed

    @asynccontextmanager
    async def write(self, offset: int, length: int) -> AsyncIterator[None]:
        """Keep the job from the range, from before the source is written until the target is.

        Wait first until nothing else is on its way there (active_write_prepare).
        """
        op = Op(*self._copier.widened(offset, offset + length))
        await self._copier.ops.alone(op)
        self._copier.ops.active.append(op)
        try:
            yield
        finally:
            self._copier.ops.active.remove(op)

    async def to_target(self, offset: int, length: int, do: ToTarget) -> None:
        """Write the target as the source was written (do_sync_target_write).

        `do` does it.  Granules that the write covers in part, at its edges, are left to the
        job if they are dirty: the job has to copy them anyway.
        """
        # First cut off the dirty granules at the edges.  Then make clean what the write covers
        # whole: from now on this write is what the target needs there.  A failure makes it dirty
        # again.
        bitmap, granularity = self._copier.bitmap, self._copier.bitmap.granularity
        end = offset + length
        if offset % granularity and bitmap.get(offset):
            offset = align_up(offset, granularity)
        if end > offset and end % granularity and bitmap.get(end - 1):
            end -= end % granularity
        if end <= offset:
            return
        nbytes = end - offset
        first, last = align_up(offset, granularity), align_down(end, granularity)
        if first < last:
            bitmap.reset(first, last - first)
        self._progress.increase_remaining(nbytes)
        self.bytes_in_flight += nbytes
        # A cluster that the target cannot fill from below yet is copied as a whole.
        start, stop = self._copier.widened(offset, end)
        try:
            if (start, stop) == (offset, end):
                await do(self._copier.target, offset, nbytes)
            else:
                await self._copier.copy_clusters(start, stop - start)
        except OSError as exc:
            bitmap.set(offset, nbytes)
            self._failed(exc)
        else:
            self._progress.update(nbytes)
        finally:
            self.bytes_in_flight -= nbytes
