# SPDX-License-Identifier: MIT
"""A block node: the I/O core (`block/io.c`) that all drivers share.

The public methods (`pread`, `pwrite`, `zero`, `discard`, `flush`,
`block_status`, `truncate`) do what is common to all nodes: fault rules, events,
write thresholds, dirty bitmaps, the highest written offset, FUA, flush
generations.  They call the driver's part, the methods of `driver.BlockDriver`.

All are coroutines of the core (`bql/effects.py`); an OSError is the outcome of
the I/O.  Offsets and lengths are in bytes; buffers are memoryviews, filled or
read in place.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable
from typing import Any

from blockcore.bql.effects import Call
from blockcore.faults.injector import FaultInjector
from blockcore.faults.options import Go, Request
from blockcore.nodes.copy_on_read import keep_what_is_read
from blockcore.nodes.definitions.options import BlockdevOptions
from blockcore.nodes.driver import BlockDriver, Extent, NodeHost, NodeOptions
from blockcore.nodes.file_calls import existing
from blockcore.nodes.outcome import Outcome
from blockcore.nodes.shortcut.traces import NodeTraces
from blockcore.nodes.shortcut.way import Way
from blockcore.nodes.tracking import RequestTracker
from blockcore.nodes.vertex import Vertex
from blockcore.nodes.zeroes import ZEROES, is_zero
from blockcore.qapi.events import BlockWriteThreshold
from blockcore.qapi.names import BlkdebugEvent, BlockdevDetectZeroesOptions, FaultIOType, UInt64
from blockcore.rules.bitmap import NodeBitmaps


class BlockNode(Vertex["BlockNode"], BlockDriver):
    """A node of the graph; drivers subclass it."""

    definition: BlockdevOptions
    """The definition that the node was opened or reopened with."""

    def __init__(self, options: NodeOptions, host: NodeHost) -> None:
        super().__init__(options.node_name)
        self.options = options
        self.filename = ""
        self.size = 0
        self.cluster_size: int | None = None
        self.write_threshold = 0
        self.faults: FaultInjector | None = None
        self.bitmaps = NodeBitmaps(host.concerns_changed)
        self.traces = NodeTraces(self.bitmaps)
        self.copies_on_read = 0
        self.requests: RequestTracker | None = None
        self.outcome = Outcome(host, f"node '{options.node_name}'")
        self._host = host
        self._flushed_gen = 0

    @property
    def read_only(self) -> bool:
        return self.options.read_only

    @property
    def inserted(self) -> bool:
        """Whether there is a medium: an image that became unusable by corruption has none."""
        return True

    @property
    def wr_highest_offset(self) -> int:
        """The highest end of a write, in bytes, without writes that a drive has to publish."""
        return self.traces.highest

    @property
    def device_or_node_name(self) -> str:
        """The name of the drive on the node if there is one, otherwise the node's own."""
        return self._host.device_of(self) or self.node_name

    def injector(self) -> FaultInjector:
        """Return the node's fault rules, made on first use."""
        if self.faults is None:
            self.faults = FaultInjector(self._host)
        return self.faults

    def debug_event(self, event: BlkdebugEvent) -> None:
        """Raise an event for the node's own fault rules (bdrv_debug_event)."""
        if self.faults is not None:
            self.faults.event(event)

    def child_event(self, event: BlkdebugEvent) -> None:
        """Raise an event at the child that carries the data (BLKDBG_EVENT)."""
        child = self.file
        if child is not None:
            child.debug_event(event)

    async def connect(self) -> None:
        """Let a guest connect to a drive that shows the node; raise OSError to refuse it."""
        await self.perform(Request(FaultIOType.CONNECT, 0, 0))

    async def pread(self, offset: int, buf: memoryview, *, copy_on_read: bool = False) -> None:
        """Fill `buf` from `offset`, perhaps with copy-on-read of this request; raise OSError."""
        request = Request(FaultIOType.READ, offset, len(buf), buf)
        if self.requests is None:
            await self.perform(request)
            return
        with self.requests.tracked(offset, len(buf)) as tracked:
            if copy_on_read or self.copies_on_read:
                await self.requests.serialise(tracked, self.cluster_size or 1)
                await self.perform(request, self._read_and_keep)
            else:
                await self.requests.settled(tracked)
                await self.perform(request)

    async def populate(self, offset: int, length: int) -> None:
        """Copy a range's unallocated parts from below into the node (BDRV_REQ_PREFETCH).

        The node must be tracking its requests.  Raises OSError.
        """
        assert self.requests is not None
        with self.requests.tracked(offset, length) as tracked:
            await self.requests.serialise(tracked, self.cluster_size or 1)
            await self.perform(Request(FaultIOType.READ, offset, length), self._read_and_keep)

    def enable_copy_on_read(self, on: bool = True) -> None:
        """Switch copy-on-read on, until it is switched off as often; no request is under way."""
        self.copies_on_read += 1 if on else -1
        assert self.copies_on_read >= 0
        self.track_requests()

    def track_requests(self) -> None:
        """Track requests from now on, so that they can be serialised; none may be under way."""
        if self.requests is None:
            self.requests = RequestTracker()

    async def pwrite(self, offset: int, buf: memoryview, *, fua: bool = False) -> None:
        """Write `buf` at `offset`; with `fua` the data is on stable storage on return.

        With `fua` a flush follows the write.  Drivers that pass FUA on leave it to a
        node below; if that node's driver writes through itself, only it is flushed,
        and rules of nodes above do not see a flush.  Otherwise this node is flushed
        (bdrv_driver_pwritev emulates FUA).  Raises OSError.
        """
        zeroes = self.options.detect_zeroes
        if zeroes is not BlockdevDetectZeroesOptions.OFF and is_zero(buf):
            unmap = zeroes is BlockdevDetectZeroesOptions.UNMAP and self.options.discard_unmap
            await self.zero(offset, len(buf), may_unmap=unmap, fua=fua)
            return
        if self.requests is None:
            await self._pwrite(offset, buf, fua)
        else:
            with self.requests.tracked(offset, len(buf)) as request:
                if self.requests.serialising:
                    await self.requests.settled(request)
                await self._pwrite(offset, buf, fua)
        if fua:
            await self.end_fua(offset, offset + len(buf), of_write=True)

    async def end_fua(self, start: int, end: int, *, of_write: bool) -> None:
        """Make stable what a request with FUA has changed: a range, or more than that."""
        if not of_write:
            await self.flush()
            return
        node: BlockNode | None = self
        while node is not None and node.passes_fua:
            node = node.file or node.filtered
        await (node if node is not None and node.writes_through() else self).write_through()

    async def write_through(self) -> None:
        """Make the write with FUA stable that this node has just carried out."""
        await self.flush()

    async def _pwrite(self, offset: int, buf: memoryview, fua: bool) -> None:
        length = len(buf)
        end = offset + length
        if self.write_threshold:
            self._check_threshold(end)
        try:
            self.debug_event(BlkdebugEvent.PWRITEV)
            await self.perform(Request(FaultIOType.WRITE, offset, length, buf, fua=fua))
            if end > self.size:  # a guest's request never is, a format's may be
                self.resized(end)
        finally:
            self._end_write(offset, length)

    async def keep(self, offset: int, buf: memoryview) -> None:
        """Write data that reads return already (BDRV_REQ_WRITE_UNCHANGED), past all bitmaps."""
        self.debug_event(BlkdebugEvent.COR_WRITE)
        if not is_zero(buf):
            await self.perform(Request(FaultIOType.WRITE, offset, len(buf), buf))
            return
        await self._zero_somehow(Request(FaultIOType.WRITE_ZEROES, offset, len(buf)), False)

    async def zero(
        self,
        offset: int,
        length: int,
        *,
        may_unmap: bool,
        fua: bool = False,
        no_fallback: bool = False,
    ) -> None:
        """Make a range read as zeroes (blk_co_pwrite_zeroes); raise OSError.

        With `may_unmap` the range may be deallocated, whatever the node's `discard`
        option says: it concerns only discards, and zeroes that a parent passes on.
        With `no_fallback`, OSError(ENOTSUP) is raised instead of writing zeroes as data.
        """
        asked = Request(FaultIOType.WRITE_ZEROES, offset, length, None, may_unmap, fua)
        if self.requests is None:
            await self._zero(asked, no_fallback)
        else:
            with self.requests.tracked(offset, length) as request:
                await self.requests.settled(request)
                await self._zero(asked, no_fallback)
        if fua:
            await self.end_fua(offset, offset + length, of_write=False)

    async def zero_as_child(self, offset: int, length: int, *, may_unmap: bool) -> None:
        """Make a range read as zeroes for a parent, without writing zeroes as data.

        `may_unmap` counts only if the node's `discard` option allows to deallocate
        (bdrv_co_pwrite_zeroes).
        """
        unmap = may_unmap and self.options.discard_unmap
        await self.zero(offset, length, may_unmap=unmap, no_fallback=True)

    async def _zero(self, request: Request, no_fallback: bool) -> None:
        offset, length = request.offset, request.nbytes
        self._check_threshold(offset + length)
        try:
            self.debug_event(BlkdebugEvent.PWRITEV_ZERO)
            await self._zero_somehow(request, no_fallback)
            if offset + length > self.size:
                self.resized(offset + length)
        finally:
            self._end_write(offset, length)

    async def _zero_somehow(self, request: Request, no_fallback: bool) -> None:
        try:
            await self.perform(request)
        except OSError as exc:
            if exc.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP) or no_fallback:
                raise
            await self._write_zeroes(request.offset, request.nbytes)

    async def discard(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Discard a range, if the driver can and `discard` is unmap; raise OSError.

        With `fua` a flush follows.
        """
        if self.options.discard_unmap:
            if self.requests is None:
                await self._discard(offset, length, fua)
            else:
                with self.requests.tracked(offset, length) as request:
                    await self.requests.settled(request)
                    await self._discard(offset, length, fua)
        if fua:
            await self.end_fua(offset, offset + length, of_write=False)

    async def _discard(self, offset: int, length: int, fua: bool) -> None:
        self._check_threshold(offset + length)
        try:
            await self.perform(Request(FaultIOType.DISCARD, offset, length, fua=fua))
        except OSError as exc:
            if exc.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
        finally:
            # The generation is raised after the discard: raised before it, a flush that runs
            # meanwhile would count as covering the discard, and may not.
            self.traces.changed(offset, length)

    async def flush(self, *, of_write: bool = False) -> None:
        """Bring all completed writes to stable storage (bdrv_co_flush); raise OSError.

        Events go to the child.  The driver flushes only if something was written
        since the last flush, and never with cache.no-flush; children are flushed in
        any case.  `of_write` is the flush of a write with FUA, whose own generation is
        not counted yet: it raises no FLUSH_TO_DISK, and does not count as a flush.
        """
        # Writes that end while the flush runs raise the generation, and need another flush.
        generation = self.traces.generation
        self.child_event(BlkdebugEvent.FLUSH_TO_OS)
        with self.outcome:
            await self.do_flush_to_os()
        if not self.options.no_flush and self._flushed_gen != generation:
            if not of_write:
                self.child_event(BlkdebugEvent.FLUSH_TO_DISK)
            await self.perform(Request(FaultIOType.FLUSH, 0, 0))
        for child in list(self.children.values()):
            # A child later in the list may have been closed while another one was flushed.
            if not child.read_only and not child.closed:
                await child.flush()
        if not of_write:
            self._flushed_gen = max(self._flushed_gen, generation)

    async def block_status(self, offset: int, length: int) -> Extent:
        """Return the extent at the beginning of a range, at most the range; raise OSError."""
        extent: Extent = await self.perform(Request(FaultIOType.BLOCK_STATUS, offset, length))
        return extent._replace(length=min(extent.length, length))

    async def is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Return whether the image itself has a range's beginning, and for how many bytes."""
        with self.outcome:
            return await self.do_is_allocated(offset, length)

    async def truncate(self, size: int) -> None:
        """Change the length to `size` bytes; raise OSError or QmpError."""
        with self.outcome:
            await self.do_truncate(size)
        self.traces.generation += 1
        self.resized(size)

    def concerns_changed(self) -> None:
        """Invalidate all shortcuts, after a change at this node that requests must notice."""
        self._host.concerns_changed()

    def resized(self, size: int) -> None:
        """Adopt a length of `size` bytes, and tell the parents (bdrv_parent_cb_resize)."""
        self.size = size
        self.bitmaps.resize(size)
        for parent in self.node_parents:
            parent.child_resized()

    def child_resized(self) -> None:
        """Follow a new length of the child that carries the data; only filters and raw do."""

    def set_write_threshold(self, threshold: int) -> None:
        """Arm BLOCK_WRITE_THRESHOLD at an offset in bytes; 0 disarms it."""
        self.write_threshold = threshold
        self.concerns_changed()

    def way(
        self, reads: tuple[BlkdebugEvent, ...] = (), writes: tuple[BlkdebugEvent, ...] = ()
    ) -> Way | None:
        """Return the way to the file for requests that bypass this node, or None.

        None if this node or one below must see every request: because of a write
        threshold, detect-zeroes, fault rules that may hit anywhere, or its driver.
        `reads` and `writes` are the events that the parent raises here for each
        request.  Drivers override `do_way`.
        """
        if (
            self.write_threshold
            or self.options.detect_zeroes is not BlockdevDetectZeroesOptions.OFF
        ):
            return None
        way = self.do_way()
        if way is None:
            return None
        if self.faults is not None:
            writes = (*writes, BlkdebugEvent.PWRITEV, BlkdebugEvent.PWRITEV_DONE)
            if not way.keep_to(self.faults, reads, writes):
                return None
        way.traces.pass_by(self.traces)
        return way

    async def perform(self, request: Request, go: Go[Any] | None = None) -> Any:
        """Carry out a request, or what a fault rule makes of it; raise OSError.

        All requests come through here.  `go` replaces `do_request` as the driver's part.
        """
        with self.outcome:
            go = go or self.do_request
            if self.faults is not None:
                files = self.faults.files(request.iotype, request.offset, request.nbytes)
                present = await Call(existing, files) if files else files
                go = self.faults.around(request, go, self.size, files, present)
            return await go(request)

    def _read_and_keep(self, request: Request) -> Awaitable[None]:
        return keep_what_is_read(self, request.offset, request.nbytes, request.buf)

    def _end_write(self, offset: int, length: int) -> None:
        """Leave the traces of a write, even a failed one (bdrv_co_write_req_finish)."""
        # A failed write may have written a part.
        self.traces.wrote(offset, length)
        self.debug_event(BlkdebugEvent.PWRITEV_DONE)

    def _check_threshold(self, end: int) -> None:
        """Report a write up to `end` above the threshold (bdrv_write_threshold_check_write)."""
        # QEMU does so before the write, whatever its outcome.
        threshold = self.write_threshold
        if not threshold or end <= threshold:
            return
        self.set_write_threshold(0)
        self._host.emit(
            BlockWriteThreshold(
                node_name=self.node_name,
                amount_exceeded=UInt64(end - threshold),
                write_threshold=UInt64(threshold),
            )
        )

    async def _write_zeroes(self, offset: int, length: int) -> None:
        while length:
            chunk = min(length, len(ZEROES))
            with self.outcome:
                await self.do_pwrite(offset, memoryview(ZEROES)[:chunk])
            offset, length = offset + chunk, length - chunk
