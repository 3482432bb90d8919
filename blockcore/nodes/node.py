"""A block node: the I/O core (`block/io.c`) that all drivers share.

The public methods (`pread`, `pwrite`, `zero`, `discard`, `flush`,
`block_status`, `truncate`) do what every node owes its users: fault rules,
events, write thresholds, dirty bitmaps, the highest written offset, FUA, flush
generations.
They call the driver's own part, the methods that begin with `do_`.  All are
coroutines of the core (`effects.py`); an OSError is the outcome of the I/O.
Offsets and lengths are bytes; buffers are memoryviews, filled or read in
place.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from blockcore.accounting import Slot
from blockcore.bitmap import NodeBitmaps
from blockcore.clock import Clock
from blockcore.faults import FaultInjector
from blockcore.gate import Gate
from blockcore.nodes.copy_on_read import copy_on_read
from blockcore.nodes.direct import Direct
from blockcore.nodes.op_blockers import BlockOpType, OpBlockers
from blockcore.nodes.options import BlockdevOptions
from blockcore.nodes.permissions import Pair, Perm, backing_child, filtered_child
from blockcore.nodes.tracking import RequestTracker
from blockcore.qapi import (
    BlkdebugEvent,
    BlkdebugIOType,
    BlockdevDetectZeroesOptions,
    BlockWriteThreshold,
    Event,
    QmpError,
    UInt64,
)

ZERO_CHUNK = 1 << 20
"""Zeroes that a driver cannot make cheaply are written in pieces of this many bytes."""

_ZEROES = bytes(ZERO_CHUNK)

_EVERYWHERE = Gate([(0, 1 << 63)])


class Surroundings(Protocol):
    """What a node needs of its machine."""

    clock: Clock

    def short_slots(self) -> Iterable[Slot]:
        """The slots of the workers that may be on the short path."""

    def device_of(self, node: BlockNode) -> str:
        """The name of the drive whose root the node is, or empty (bdrv_get_device_name)."""

    def emit(self, event: Event) -> None:
        """Send an event to every client."""

    def random(self) -> float:
        """In [0, 1), from the machine's seed."""

    def concerns_changed(self) -> None:
        """Something that may forbid the short path has come or gone."""


class Extent(NamedTuple):
    """What block status says of the first `length` bytes: allocated data, reads as zeroes."""

    length: int
    data: bool
    zero: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """The options all drivers share, after inheritance (bdrv_inherited_options)."""

    node_name: str
    read_only: bool = False
    auto_read_only: bool = False
    discard_unmap: bool = True
    detect_zeroes: BlockdevDetectZeroesOptions = BlockdevDetectZeroesOptions.OFF
    direct: bool = False
    no_flush: bool = False


class BlockNode:
    """One node of the graph; drivers subclass it."""

    driver: ClassVar[str]

    supports_backing: ClassVar[bool] = False
    """Whether it can have a backing file."""

    definition: BlockdevOptions
    """What the node was opened from."""

    def __init__(self, options: NodeOptions, around: Surroundings) -> None:
        self.options = options
        self.node_name = options.node_name
        self.filename = ""
        self.size = 0
        self.cluster_size: int | None = None
        self.children: dict[str, BlockNode] = {}
        self.parents: list[object] = []
        """Nodes and holders (`permissions.Holder`), each as often as it uses this one."""
        self.inherits_from: BlockNode | None = None
        self.frozen: set[str] = set()
        """Names of children that may not be replaced."""
        self.op_blockers = OpBlockers()
        self.monitor_owned = False
        self.closed = False
        self.write_threshold = 0
        self.wr_highest_offset = 0
        self.faults: FaultInjector | None = None
        self.bitmaps = NodeBitmaps(around.concerns_changed)
        self.copy_on_read = 0
        self.requests: RequestTracker | None = None
        self._around = around
        self._write_gen = 0
        self._flushed_gen = 0

    @property
    def read_only(self) -> bool:
        return self.options.read_only

    @property
    def backing(self) -> BlockNode | None:
        """The image that a read falls through to where this one has nothing."""
        return self.children.get("backing")

    @property
    def file(self) -> BlockNode | None:
        """The child that carries the node's data: `file`, or `image` of a blkdebug node."""
        return self.children.get("file") or self.children.get("image")

    @property
    def device_or_node_name(self) -> str:
        """The drive on the node, if it has a name, else the node's own."""
        return self._around.device_of(self) or self.node_name

    def check_op(self, op: BlockOpType) -> None:
        """QmpError if something forbids an operation on the node (bdrv_op_is_blocked)."""
        reason = self.op_blockers.reason(op)
        if reason is not None:
            raise QmpError(f"Node '{self.device_or_node_name}' is busy: {reason}")

    def check_link(self, name: str) -> None:
        """QmpError if a job needs the link to a child to stay as it is."""
        child = self.children.get(name)
        if name in self.frozen and child is not None:
            raise QmpError(
                f"Cannot change '{name}' link from '{self.node_name}' to '{child.node_name}'"
            )

    def set_child(self, name: str, child: BlockNode | None) -> None:
        """Use another child, or none; `links` does this, and tells the children."""
        if child is None:
            del self.children[name]
        else:
            self.children[name] = child

    def child_permissions(self, name: str, perm: Perm, shared: Perm) -> Pair:
        """What the node needs and shares of a child, given what its users need and share."""
        return (backing_child if name == "backing" else filtered_child)(perm, shared)

    def injector(self) -> FaultInjector:
        """The node's fault rules, made on first use."""
        if self.faults is None:
            self.faults = FaultInjector(self._around.random)
        return self.faults

    def debug_event(self, event: BlkdebugEvent) -> None:
        """Tell the node's own rules that a moment has come (bdrv_debug_event)."""
        if self.faults is not None:
            self.faults.event(event)

    def child_event(self, event: BlkdebugEvent) -> None:
        """Tell the child that carries the data (BLKDBG_EVENT)."""
        child = self.file
        if child is not None:
            child.debug_event(event)

    async def pread(self, offset: int, buf: memoryview) -> None:
        """Fill `buf` from `offset`; raises OSError."""
        if self.requests is None:
            self.inject(BlkdebugIOType.READ, offset, len(buf))
            await self.do_pread(offset, buf)
            return
        with self.requests.tracked(offset, len(buf)) as request:
            if self.copy_on_read:
                await self.requests.serialise(request, self.cluster_size or 1)
                self.inject(BlkdebugIOType.READ, offset, len(buf))
                await copy_on_read(self, offset, len(buf), buf)
            else:
                await self.requests.settled(request)
                self.inject(BlkdebugIOType.READ, offset, len(buf))
                await self.do_pread(offset, buf)

    async def populate(self, offset: int, length: int) -> None:
        """Copy what a range lacks from below, as copy-on-read does (BDRV_REQ_PREFETCH).

        The node must be tracking its requests.
        """
        assert self.requests is not None
        with self.requests.tracked(offset, length) as request:
            await self.requests.serialise(request, self.cluster_size or 1)
            self.inject(BlkdebugIOType.READ, offset, length)
            await copy_on_read(self, offset, length, None)

    def enable_copy_on_read(self, on: bool = True) -> None:
        """Read so from now on, until switched off as often; no request may be under way."""
        self.copy_on_read += 1 if on else -1
        assert self.copy_on_read >= 0
        self.track_requests()

    def track_requests(self) -> None:
        """Let requests be serialised from now on; none may be under way."""
        if self.requests is None:
            self.requests = RequestTracker()

    async def pwrite(self, offset: int, buf: memoryview, *, fua: bool = False) -> None:
        """Write `buf` at `offset`; with `fua` it is on stable storage on return.

        Drivers know no FUA, so that a flush of this node follows the write,
        as bdrv_driver_pwritev emulates it.
        """
        zeroes = self.options.detect_zeroes
        if zeroes is not BlockdevDetectZeroesOptions.OFF and bytes(buf).count(0) == len(buf):
            unmap = zeroes is BlockdevDetectZeroesOptions.UNMAP and self.options.discard_unmap
            await self.zero(offset, len(buf), may_unmap=unmap, fua=fua)
            return
        if self.requests is None:
            await self._pwrite(offset, buf)
        else:
            with self.requests.tracked(offset, len(buf)) as request:
                await self.requests.settled(request)
                await self._pwrite(offset, buf)
        if fua:
            await self.flush()

    async def _pwrite(self, offset: int, buf: memoryview) -> None:
        self._check_threshold(offset + len(buf))
        try:
            self.debug_event(BlkdebugEvent.PWRITEV)
            self.inject(BlkdebugIOType.WRITE, offset, len(buf))
            await self.do_pwrite(offset, buf)
            self._grew_to(offset + len(buf))
        finally:
            self._end_write(offset, len(buf))

    async def keep(self, offset: int, buf: memoryview) -> None:
        """Write what reads give already (BDRV_REQ_WRITE_UNCHANGED): nothing becomes dirty."""
        self.debug_event(BlkdebugEvent.COR_WRITE)
        if bytes(buf).count(0) != len(buf):
            self.inject(BlkdebugIOType.WRITE, offset, len(buf))
            await self.do_pwrite(offset, buf)
            return
        await self._zero_somehow(offset, len(buf), may_unmap=False, no_fallback=False)

    async def zero(
        self,
        offset: int,
        length: int,
        *,
        may_unmap: bool,
        fua: bool = False,
        no_fallback: bool = False,
    ) -> None:
        """Make a range read as zeroes (bdrv_co_pwrite_zeroes).

        With `may_unmap` it may be deallocated.  `no_fallback` raises
        OSError(ENOTSUP) rather than writing zeroes as data.
        """
        if self.requests is None:
            await self._zero(offset, length, may_unmap, no_fallback)
        else:
            with self.requests.tracked(offset, length) as request:
                await self.requests.settled(request)
                await self._zero(offset, length, may_unmap, no_fallback)
        if fua:
            await self.flush()

    async def _zero(self, offset: int, length: int, may_unmap: bool, no_fallback: bool) -> None:
        self._check_threshold(offset + length)
        try:
            self.debug_event(BlkdebugEvent.PWRITEV_ZERO)
            await self._zero_somehow(offset, length, may_unmap, no_fallback)
            self._grew_to(offset + length)
        finally:
            self._end_write(offset, length)

    async def _zero_somehow(
        self, offset: int, length: int, may_unmap: bool, no_fallback: bool
    ) -> None:
        try:
            self.inject(BlkdebugIOType.WRITE_ZEROES, offset, length)
            await self.do_zero(offset, length, may_unmap and self.options.discard_unmap)
        except OSError as exc:
            if exc.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP) or no_fallback:
                raise
            await self._write_zeroes(offset, length)

    async def discard(self, offset: int, length: int) -> None:
        """Tell that a range is not needed; without discard=unmap this does nothing."""
        if not self.options.discard_unmap:
            return
        if self.requests is None:
            await self._discard(offset, length)
            return
        with self.requests.tracked(offset, length) as request:
            await self.requests.settled(request)
            await self._discard(offset, length)

    async def _discard(self, offset: int, length: int) -> None:
        self._check_threshold(offset + length)
        try:
            self.inject(BlkdebugIOType.DISCARD, offset, length)
            await self.do_discard(offset, length)
        except OSError as exc:
            if exc.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
        finally:
            # Not before it is over: a flush under way meanwhile does not cover it.
            self._write_gen += 1
            self.bitmaps.mark(offset, length)

    async def flush(self) -> None:
        """Bring what was written to stable storage (bdrv_co_flush).

        The events go to the child; the disk is only asked if something was
        written since the last flush, and never with cache.no-flush.
        """
        generation = self._write_gen
        self.child_event(BlkdebugEvent.FLUSH_TO_OS)
        await self.do_flush_to_os()
        if not self.options.no_flush and self._flushed_gen != generation:
            self.child_event(BlkdebugEvent.FLUSH_TO_DISK)
            self.inject(BlkdebugIOType.FLUSH, 0, 0)
            await self.do_flush()
        for child in self.children.values():
            if not child.read_only:
                await child.flush()
        self._flushed_gen = max(self._flushed_gen, generation)

    async def block_status(self, offset: int, length: int) -> Extent:
        """What the beginning of a range is; the extent lies within the range."""
        self.inject(BlkdebugIOType.BLOCK_STATUS, offset, length)
        extent = await self.do_block_status(offset, length)
        return extent._replace(length=min(extent.length, length))

    async def is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Whether the beginning of a range is in this image itself, and how much of it.

        Where nothing can be below, all is; a filter says what its child says.
        """
        return True, length

    async def truncate(self, size: int) -> None:
        """Change the length to `size` bytes; raises OSError or QmpError."""
        await self.do_truncate(size)
        self._write_gen += 1
        self.resized(size)

    def resized(self, size: int) -> None:
        """Adopt a new length, and let the nodes above look at theirs (bdrv_parent_cb_resize)."""
        self.size = size
        self.bitmaps.resize(size)
        for parent in self.parents:
            if isinstance(parent, BlockNode):
                parent.child_resized()

    def child_resized(self) -> None:
        """The child that carries the data has another length now; a filter has the same."""

    def set_write_threshold(self, threshold: int) -> None:
        """Arm BLOCK_WRITE_THRESHOLD at an offset in bytes; 0 disarms."""
        self.write_threshold = threshold
        self._around.concerns_changed()

    def wrote_directly(self, highest: int) -> None:
        """Writes have reached the file descriptor past this node, up to `highest`."""
        self.wr_highest_offset = max(self.wr_highest_offset, highest)
        self._write_gen += 1

    def direct(
        self, reads: tuple[BlkdebugEvent, ...] = (), writes: tuple[BlkdebugEvent, ...] = ()
    ) -> Direct | None:
        """How to go straight to the file; None if something concerns this node or one below.

        `reads` and `writes` are the events that the parent raises here for
        such requests.  A driver that merely passes requests on overrides `do_direct`.
        """
        if (
            self.write_threshold
            or self.options.detect_zeroes is not BlockdevDetectZeroesOptions.OFF
            or (self.faults is not None and self.faults.changes_state)
        ):
            return None
        direct = self.do_direct()
        if direct is None:
            return None
        if self.faults is not None:
            read = self.faults.gate(BlkdebugIOType.READ)
            written = self.faults.gate(BlkdebugIOType.WRITE)
            if read is None or written is None:
                return None
            direct.read_gate = direct.read_gate.union(read)
            direct.write_gate = direct.write_gate.union(written)
            read_pass = self.faults.passing(reads)
            write_pass = self.faults.passing(
                (*writes, BlkdebugEvent.PWRITEV, BlkdebugEvent.PWRITEV_DONE)
            )
            direct.read_passes += [read_pass] if read_pass else []
            direct.write_passes += [write_pass] if write_pass else []
        if self.bitmaps.awaited:
            direct.write_gate = _EVERYWHERE
        direct.bitmaps += [(bitmap, 0) for bitmap in self.bitmaps.recording]
        direct.nodes.append((self, 0))
        return direct

    async def do_open(self) -> None:
        """Acquire what the driver needs and set `size`; raises OSError or QmpError."""

    async def do_reopen(self, options: NodeOptions, definition: BlockdevOptions) -> None:
        """Get ready to go on with other options, and perhaps another definition.

        They become the node's after it, and then `reconfigured` is called.

        OSError or QmpError if that cannot be; then everything is as before.
        No request is under way.
        """

    def reconfigured(self) -> None:
        """`definition` is another one now; children and `options` are dealt with elsewhere."""

    async def do_close(self) -> None:
        """Give back what `do_open` acquired."""

    def abort(self) -> None:
        """Make blocked calls of the driver return soon: the process is ending."""

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        raise NotImplementedError

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        raise NotImplementedError

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    async def do_discard(self, offset: int, length: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    async def do_flush_to_os(self) -> None:
        """Give what the driver keeps in memory to its children; also with cache.no-flush."""

    async def do_flush(self) -> None:
        """Nothing but the children to flush, unless a driver knows better."""

    async def do_block_status(self, offset: int, length: int) -> Extent:
        return Extent(length, data=True, zero=False)

    async def do_truncate(self, size: int) -> None:
        raise QmpError("Image format driver does not support resize")

    def do_direct(self) -> Direct | None:
        return None

    def inject(self, iotype: BlkdebugIOType, offset: int, nbytes: int) -> None:
        """Carry out what the fault rules decide: the one place that acts on a hit."""
        if self.faults is None:
            return
        hit = self.faults.check(iotype, offset, nbytes)
        if hit is None:
            return
        if hit.rule.exhausted:
            self._around.concerns_changed()
        if hit.errno > 0:
            raise OSError(hit.errno, os.strerror(hit.errno))

    def _grew_to(self, end: int) -> None:
        """A write beyond the end makes a node longer; only format drivers do that."""
        if end > self.size:
            self.resized(end)

    def _end_write(self, offset: int, length: int) -> None:
        """bdrv_co_write_req_finish: a failed write counts as well, for it may have done a part."""
        self.wr_highest_offset = max(self.wr_highest_offset, offset + length)
        self._write_gen += 1
        self.bitmaps.mark(offset, length)
        self.debug_event(BlkdebugEvent.PWRITEV_DONE)

    def _check_threshold(self, end: int) -> None:
        """bdrv_write_threshold_check_write: before the write, whatever comes of it."""
        threshold = self.write_threshold
        if not threshold or end <= threshold:
            return
        self.set_write_threshold(0)
        self._around.emit(
            BlockWriteThreshold(
                node_name=self.node_name,
                amount_exceeded=UInt64(end - threshold),
                write_threshold=UInt64(threshold),
            )
        )

    async def _write_zeroes(self, offset: int, length: int) -> None:
        while length:
            chunk = min(length, ZERO_CHUNK)
            await self.do_pwrite(offset, memoryview(_ZEROES)[:chunk])
            offset, length = offset + chunk, length - chunk
