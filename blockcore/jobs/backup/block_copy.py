# SPDX-License-Identifier: MIT
"""Copying clusters once each: what a backup job and guests' writes share (`block/block-copy.c`).

A bitmap says which clusters are still to be copied.  A task takes a cluster out of
the bitmap when it begins to copy, and puts it back if that fails.  Calls that need
a cluster of another call's task wait for its outcome.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Protocol

from blockcore.bql.effects import Until, kept
from blockcore.jobs.backup.copy_call import CopyCall
from blockcore.jobs.copy_data import DataCopier
from blockcore.nodes.graph.chain import backing_chain_next, is_allocated_above
from blockcore.nodes.node import BlockNode
from blockcore.rules.bitmap import DirtyBitmap
from blockcore.rules.host import CopyHost
from blockcore.rules.ranges import align_down

MIN_CLUSTER = 64 << 10
"""The smallest unit of copying, in bytes (BLOCK_COPY_CLUSTER_SIZE_DEFAULT)."""

MAX_CHUNK = 1 << 20
"""The most bytes that one task copies, unless clusters are larger (BLOCK_COPY_MAX_BUFFER)."""


class Meter(Protocol):
    """A receiver of the progress, in bytes."""

    def set_remaining(self, nbytes: int) -> None:
        """Take note that `nbytes` are still to be copied."""

    def update(self, nbytes: int) -> None:
        """Take note that `nbytes` more have been copied."""


class _Task:
    """A part that is being copied, from `offset` to `end`; `zero`: it is zero in the source."""

    __slots__ = ("end", "offset", "zero")

    def __init__(self, offset: int, end: int) -> None:
        self.offset = offset
        self.end = end
        self.zero = False


class BlockCopy:
    """The state that all calls on one pair of nodes share.

    `skip_unallocated`: data that is not in the top image of the source is not copied;
    each task finds that out.  `discard_source`: what has been copied is discarded in
    the source.  `abandoned`: the backup is cancelled, and nothing needs to be copied.
    """

    def __init__(
        self,
        host: CopyHost,
        source: BlockNode,
        target: BlockNode,
        meter: Meter | None = None,
        *,
        min_cluster_size: int = 0,
        discard_source: bool = False,
    ) -> None:
        self.source = source
        self.target = target
        self.cluster_size = max(MIN_CLUSTER, min_cluster_size, target.cluster_size or 0)
        self.bitmap = DirtyBitmap(source.size, self.cluster_size)
        self.bitmap.enabled = False
        self.bitmap.set(0, source.size)
        self.meter = meter
        self.skip_unallocated = False
        self.abandoned = False
        self.discard_source = discard_source
        self._host = host
        self._tasks: list[_Task] = []
        self._in_flight_bytes = 0
        self._data = DataCopier(host, source, target, MAX_CHUNK)

    async def run(self, call: CopyCall) -> None:
        """Copy what of a call's range is not copied yet (block_copy_common).

        The outcome is in `call.error`.
        """
        while not call.cancelled:
            # Tasks of other calls may fail and put their clusters back: then it goes round again.
            found = await self._copy_dirty(call)
            if call.error is not None:
                break
            if not found and not await self._others_end(call):
                break
        call.finished = True

    async def reset_unallocated(self, offset: int) -> int:
        """Take out of the bitmap what begins at `offset` and is not in the top image.

        (block_copy_reset_unallocated.)  Return how many bytes have been looked at.
        """
        allocated, known = await self._top_allocation(offset, self.source.size - offset)
        if not allocated:
            self.bitmap.reset(offset, min(known, self.source.size - offset))
            self._tell_remaining()
        return known

    async def _copy_dirty(self, call: CopyCall) -> bool:
        """Copy the dirty clusters of a call's range, by tasks; return whether there were any.

        (block_copy_dirty_clusters.)
        """
        found, offset = False, call.offset
        chunk = max(MAX_CHUNK, self.cluster_size)
        if call.max_chunk:
            chunk = min(chunk, call.max_chunk)
        while offset < call.end and not call.over():
            area = self.bitmap.next_dirty_area(offset, call.end, chunk)
            if area is None:
                break
            found = True
            task = self._take(area[0], min(sum(area), self.source.size))
            if await self._prepare(call, task):
                offset = task.end
                if not await self._has_slot(call):
                    self._end(task, again=True)
                    break
                # The only task: no coroutine of its own is needed.
                if offset >= call.end and not call.running:
                    await self._carry_out(call, task)
                else:
                    call.running += 1
                    self._host.spawn(self._beside(call, task))
        if call.running:
            await Until(lambda: not call.running)
        return found

    async def _has_slot(self, call: CopyCall) -> bool:
        """Wait until one more task may run; return False if no task is to begin any more."""
        # In QEMU tasks of one batch begin together.  Here the look at the source takes time, so
        # that the first task may have failed by now: the next one is begun all the same.
        if call.running < call.max_workers and call.max_workers > 1:
            return True
        await Until(lambda: call.running < call.max_workers)
        return not call.over()

    async def _beside(self, call: CopyCall, task: _Task) -> None:
        try:
            await self._carry_out(call, task)
        finally:
            call.running -= 1

    async def _prepare(self, call: CopyCall, task: _Task) -> bool:
        """Return whether the task is to be carried out now; if not, it is over.

        It is not if there is nothing to copy, or if the speed limit has made the call sleep.
        """
        if not await self._look(task):
            self._end(task)
            return False
        if call.limit is None:
            return True
        now_ns = self._host.clock.monotonic_ns()
        delay_ns = call.limit.delay_ns(now_ns, 0)
        if delay_ns > 0:
            self._end(task, again=True)
            await call.sleep(now_ns + delay_ns)
            return False
        call.limit.delay_ns(now_ns, task.end - task.offset)
        return True

    async def _look(self, task: _Task) -> bool:
        """Shorten the task to what is all of one kind; return False if it is not wanted at all."""
        length = task.end - task.offset
        if self.skip_unallocated:
            allocated, known = await self._top_allocation(task.offset, length)
            self._shorten(task, task.offset + known)
            if not allocated:
                return False
            length = task.end - task.offset
        try:
            extent = await self.source.block_status(task.offset, length)
            task.zero, known = extent.zero, self._whole(task.offset, extent.length)
        except OSError:
            task.zero, known = False, 0
        if not known:
            task.zero, known = False, self.cluster_size
        self._shorten(task, task.offset + known)
        return True

    def _whole(self, offset: int, length: int) -> int:
        """Return the length of the whole clusters in a range; the last one may be short."""
        at_end = offset + length >= self.source.size
        return length if at_end else align_down(length, self.cluster_size)

    async def _top_allocation(self, offset: int, length: int) -> tuple[bool, int]:
        """Return whether the beginning of a range is in the top image, and its length in bytes.

        The length is of whole clusters.  A cluster whose state cannot be found out
        counts as allocated.
        """
        try:
            allocated, known = await is_allocated_above(
                self.source, backing_chain_next(self.source), offset, length
            )
        except OSError:
            return True, self.cluster_size
        known = self._whole(offset, known)
        return (allocated, known) if known else (True, self.cluster_size)

    async def _carry_out(self, call: CopyCall, task: _Task) -> None:
        try:
            await self._copy(task)
        except OSError as exc:
            if call.error is None:
                call.error = kept(exc)
            self._end(task, again=True)
            return
        if self.discard_source:
            # A failure of the discard is dropped (block_copy_task_entry).  Calls that wait for the
            # task are about to write here, and go on only after the discard: in QEMU it is on its
            # way before they can be.
            with contextlib.suppress(OSError):
                await self.source.discard(task.offset, task.end - task.offset)
        if self.meter is not None:
            self.meter.update(task.end - task.offset)
        self._end(task)

    async def _copy(self, task: _Task) -> None:
        offset, length = task.offset, task.end - task.offset
        if task.zero:
            await self.target.zero(offset, length, may_unmap=False)
            return
        await self._data.copy(offset, length)

    def _take(self, offset: int, end: int) -> _Task:
        task = _Task(offset, end)
        self.bitmap.reset(offset, end - offset)
        self._tasks.append(task)
        self._in_flight_bytes += end - offset
        return task

    def _shorten(self, task: _Task, end: int) -> None:
        if end < task.end:
            self.bitmap.set(end, task.end - end)
            self._in_flight_bytes -= task.end - end
            task.end = end

    def _end(self, task: _Task, *, again: bool = False) -> None:
        self._tasks.remove(task)
        self._in_flight_bytes -= task.end - task.offset
        if again:
            self.bitmap.set(task.offset, task.end - task.offset)
        self._tell_remaining()

    def _tell_remaining(self) -> None:
        if self.meter is not None:
            self.meter.set_remaining(self.bitmap.count + self._in_flight_bytes)

    async def _others_end(self, call: CopyCall) -> bool:
        """Wait for a task of another call in the range; return False if there is none."""
        for task in self._tasks:
            if task.offset < call.end and call.offset < task.end:
                await Until(partial(self._is_over, task))
                return True
        return False

    def _is_over(self, task: _Task) -> bool:
        return task not in self._tasks
