"""The copying of a mirror: which parts are dirty, which are on their way (`block/mirror.c`).

Several parts are copied side by side, each by a coroutine of its own that
nobody waits for by name; no two of them, and no guest's write that goes to the
target as well, touch the same place at the same time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from blockcore.bitmap import DirtyBitmap
from blockcore.effects import Until
from blockcore.nodes.block_copy import CopyHost
from blockcore.nodes.chain import skip_filters
from blockcore.nodes.copy_data import DataCopier, SourceError
from blockcore.nodes.driver import Extent
from blockcore.nodes.node import BlockNode
from blockcore.nodes.qcow2.node import Qcow2Node
from blockcore.qapi import IoOperationType

MAX_IN_FLIGHT = 16
"""How many parts are copied at the same time."""

MAX_IO_BYTES = 1 << 20
"""How large a part is, unless the buffer allows for larger ones."""

MAX_ZERO_BYTES = 1 << 30
"""How much is made zero in one go."""


@dataclass(slots=True, eq=False)
class Op:
    """A part on its way, in bytes; `buffered` of them are in memory."""

    offset: int
    end: int
    buffered: int = 0

    @property
    def nbytes(self) -> int:
        return self.end - self.offset


class Copier:
    """Copies from `source` to `target` what `bitmap` says, which guests' writes mark.

    `failed` is told of every error.  `copied` of every part that is done, in bytes.
    """

    def __init__(
        self,
        host: CopyHost,
        source: BlockNode,
        target: BlockNode,
        bitmap: DirtyBitmap,
        *,
        buf_size: int,
        unmap: bool,
        failed: Callable[[IoOperationType, OSError], None],
        copied: Callable[[int], None],
    ) -> None:
        self.source = source
        self.target = target
        self.bitmap = bitmap
        self.ops: list[Op] = []
        self.active: list[Op] = []
        """Writes of guests that go to the target as well."""
        self.bytes_in_flight = 0
        self._host = host
        self._unmap = unmap
        self._failed = failed
        self._copied = copied
        self._position = 0
        self._buffered = 0
        granularity = bitmap.granularity
        self._buf_size = -(-buf_size // granularity) * granularity
        self._cow = self._cow_bitmap()
        if self._cow is not None:
            self._buf_size = max(self._buf_size, self._cluster)
        self._max_io = max(self._buf_size // MAX_IN_FLIGHT, MAX_IO_BYTES)
        self._data = DataCopier(host, source, target, self._max_io)

    def _cow_bitmap(self) -> DirtyBitmap | None:
        """Which parts the target has, if it cannot fill its clusters from below yet.

        It has the name of a backing file, which is opened in the end; until
        then whole clusters have to be copied.
        """
        image = skip_filters(self.target)
        self._cluster = image.cluster_size or 1
        if not isinstance(image, Qcow2Node) or not image.header.backing_file:
            return None
        if image.cow is not None or self.bitmap.granularity >= self._cluster:
            return None
        return DirtyBitmap(self.bitmap.size, self.bitmap.granularity)

    def is_full(self) -> bool:
        """Whether nothing can be begun before something has ended."""
        return len(self.ops) >= MAX_IN_FLIGHT or self._buffered >= self._buf_size

    def has_room(self) -> bool:
        return not self.is_full()

    def is_idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self.ops

    async def one_ends(self) -> None:
        """Wait until something that is on its way has ended."""
        before = list(self.ops)
        await Until(lambda: any(op not in self.ops for op in before) or not before)

    async def all_end(self) -> None:
        await Until(self.is_idle)

    async def alone(self, op: Op) -> None:
        """Wait until nothing else is on its way to the same granules (mirror_wait_on_conflicts)."""
        if not self._is_alone(op):
            await Until(lambda: self._is_alone(op))

    def _is_alone(self, op: Op) -> bool:
        granularity = self.bitmap.granularity
        start, end = op.offset - op.offset % granularity, op.end + -op.end % granularity
        return not any(
            other is not op and other.offset < end and start < other.end
            for other in (*self.ops, *self.active)
        )

    async def iteration(self, account: Callable[[int], int]) -> int:
        """Begin to copy the next dirty parts that are neighbours (mirror_iteration).

        `account` is told of copied bytes and says how long to wait, in
        nanoseconds; the last answer is the result.  What has not begun yet is
        on its way as well: `rest` stands for it.
        """
        rest = await self._next_area()
        if rest is None:
            return 0
        self._position = rest.end
        self.bitmap.reset(rest.offset, rest.nbytes)
        self.ops.append(rest)
        self.bytes_in_flight += rest.nbytes
        delay_ns = 0
        try:
            while rest.nbytes:
                extent = await self._status(rest.offset, rest.nbytes)
                stop = self._clip(rest.offset + extent.length, rest)
                while rest.offset < stop:
                    most = self._max_io if extent.data else MAX_ZERO_BYTES
                    part = Op(rest.offset, min(stop, rest.offset + most))
                    delay_ns = account(await self._begin(part, rest, extent))
        finally:
            self.bytes_in_flight -= rest.nbytes
            self.ops.remove(rest)
        return delay_ns

    async def _next_area(self) -> Op | None:
        """The next dirty granules, up to what is in the way or the buffer's size."""
        while True:
            area = self.bitmap.next_dirty_area(self._position, max_length=self._buf_size)
            if area is None and self._position:
                area = self.bitmap.next_dirty_area(0, max_length=self._buf_size)
            if area is None:
                return None
            found = Op(area[0], sum(area))
            for op in (*self.ops, *self.active):
                start = op.offset - op.offset % self.bitmap.granularity
                if found.offset < start < found.end:
                    found.end = start
            if self._is_alone(found):
                return found
            await self.alone(found)

    def _clip(self, stop: int, rest: Op) -> int:
        """Whole granules only, at least one (the last of the drive may be short)."""
        granularity = self.bitmap.granularity
        if stop < rest.end:
            stop -= stop % granularity
        return min(max(stop, rest.offset + granularity), rest.end)

    async def _status(self, offset: int, length: int) -> Extent:
        """What is there; what cannot be found out is copied, and the copy will fail.

        So is a granule that is of one kind in a part only.
        """
        try:
            extent = await self.source.block_status(offset, length)
        except OSError:
            return Extent(length, data=True, zero=False)
        if extent.length < min(self.bitmap.granularity, length):
            return extent._replace(data=True)
        return extent

    async def _begin(self, op: Op, rest: Op, extent: Extent) -> int:
        """Start one part, which is taken from `rest`; how much of it counts for the speed limit."""
        at_end = op.end == self.bitmap.size
        whole = not (op.offset % self._cluster or (op.end % self._cluster and not at_end))
        taken = op.nbytes
        if extent.data or not whole:
            self._align_to_clusters(op)
            op.buffered = op.nbytes
        await Until(lambda: len(self.ops) <= MAX_IN_FLIGHT and self._fits(op.buffered))
        rest.offset += taken
        self.bytes_in_flight -= taken
        if op.buffered:
            self._start(op, self._data.copy(op.offset, op.nbytes))
        elif extent.zero:
            self._start(op, self.target.zero(op.offset, op.nbytes, may_unmap=self._unmap))
        else:
            self._start(op, self.target.discard(op.offset, op.nbytes))
        return op.buffered

    def _fits(self, nbytes: int) -> bool:
        return not nbytes or not self._buffered or self._buffered + nbytes <= self._buf_size

    def _align_to_clusters(self, op: Op) -> None:
        if self._cow is not None and self._cow.next_clean(op.offset, op.end) is not None:
            op.offset -= op.offset % self._cluster
            op.end = min(op.end + -op.end % self._cluster, self.bitmap.size)

    def zero(self, offset: int, length: int) -> None:
        """Begin to make a range of the target zero; no progress is told of it."""
        op = Op(offset, offset + length)
        work = self.target.zero(offset, length, may_unmap=self._unmap)
        self._start(op, work, counts=False)

    def _start(self, op: Op, work: Awaitable[None], *, counts: bool = True) -> None:
        self.ops.append(op)
        self.bytes_in_flight += op.nbytes
        self._buffered += op.buffered
        self._host.spawn(self._carry_out(op, work, counts))

    async def _carry_out(self, op: Op, work: Awaitable[None], counts: bool) -> None:
        try:
            await work
        except OSError as exc:
            self.bitmap.set(op.offset, op.nbytes)
            reading = isinstance(exc, SourceError)
            self._failed(IoOperationType.READ if reading else IoOperationType.WRITE, exc)
        else:
            if counts:
                self._copied(op.nbytes)
            if self._cow is not None:
                self._cow.set(op.offset, op.nbytes)
        finally:
            self.ops.remove(op)
            self.bytes_in_flight -= op.nbytes
            self._buffered -= op.buffered
