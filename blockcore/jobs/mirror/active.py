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
    """What mirror_top is given as its job, once the copying has begun.

    `wanted` says whether writes are to be copied, `failed` is told of errors:
    no guest's request fails for that.  `missed` is told of writes that were
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
        """From before the source is written until the target is."""
        op = Op(*self._copier.widened(offset, offset + length))
        await self._copier.ops.alone(op)
        self._copier.ops.active.append(op)
        try:
            yield
        finally:
            self._copier.ops.active.remove(op)

    async def to_target(self, offset: int, length: int, do: ToTarget) -> None:
        """Do the same to the target (do_sync_target_write).

        Partly dirty granules at the edges are left to the job, which has to
        copy them anyway.
        """
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
