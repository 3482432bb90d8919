# SPDX-License-Identifier: MIT
"""The copying of a mirror: what is dirty, part by part (`block/mirror.c`: mirror_iteration).

Several parts are copied side by side, each by a coroutine of its own that nothing
awaits.  No two of them, and no guest's write that goes to the target as well, touch
the same granule at the same time (ops_in_flight).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from blockcore.bql.effects import Until
from blockcore.jobs.copy_data import DataCopier
from blockcore.jobs.mirror.clusters import clusters_without_backing
from blockcore.jobs.shortcut import Part
from blockcore.nodes.driver import Extent
from blockcore.nodes.graph.chain import skip_filters
from blockcore.nodes.node import BlockNode
from blockcore.qapi.record import dataclass
from blockcore.rules.bitmap import DirtyBitmap
from blockcore.rules.host import CopyHost
from blockcore.rules.ranges import align_down, align_up

MAX_IN_FLIGHT = 16
"""How many parts are copied at the same time (mirror.c: MAX_IN_FLIGHT)."""

MAX_PARTS = 16
"""How many small parts one call copies.

To begin a part costs more than to copy a small one.  More parts in a call would
keep one thread longer from everything else that copies.
"""

MAX_IO_BYTES = 1 << 20
"""The largest part, in bytes, unless the buffer allows for larger ones (mirror.c: MAX_IO_BYTES)."""

MAX_ZERO_BYTES = 1 << 30
"""The most bytes that one request makes zero."""


@dataclass(slots=True, eq=False)
class Op:
    """A part on its way, in bytes; `buffered` of them are in memory (MirrorOp).

    Of several small parts it is the range from the first to the last.
    """

    offset: int
    end: int
    buffered: int = 0

    @property
    def nbytes(self) -> int:
        return self.end - self.offset


class OpsInFlight:
    """The parts on their way.

    `own` are the job's, `active` guests' writes that go to the target as well.
    """

    def __init__(self, granularity: int) -> None:
        self.own: list[Op] = []
        self.active: list[Op] = []
        self._granularity = granularity

    def __iter__(self) -> Iterator[Op]:
        yield from self.own
        yield from self.active

    async def one_ends(self) -> None:
        """Wait until one of the job's parts that are on their way has ended."""
        before = list(self.own)
        await Until(lambda: any(op not in self.own for op in before) or not before)

    async def all_end(self) -> None:
        """Wait until none of the job's parts is on its way."""
        await Until(self._is_idle)

    def _is_idle(self) -> bool:
        return not self.own

    async def alone(self, op: Op) -> None:
        """Wait until nothing else is on its way to the same granules (mirror_wait_on_conflicts)."""
        if not self._is_alone(op):
            await Until(lambda: self._is_alone(op))

    def _is_alone(self, op: Op) -> bool:
        start, end = self._down(op.offset), self._up(op.end)
        return not any(
            other is not op and other.offset < end and start < other.end for other in self
        )

    def free_until(self, offset: int, end: int) -> int:
        """Return the end of the whole granules from `offset` on that nothing is on its way to."""
        for op in self:
            if op.offset < end and offset < self._up(op.end):
                end = max(self._down(op.offset), offset)
        return end

    def _down(self, offset: int) -> int:
        return align_down(offset, self._granularity)

    def _up(self, offset: int) -> int:
        return align_up(offset, self._granularity)


class Copier:
    """Copies from `source` to `target` what is marked in `bitmap`, where guests' writes mark.

    `failed` receives every error, a SourceError if the source failed; `copied` receives
    the length of every part that is done, in bytes.
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
        failed: Callable[[OSError], None],
        copied: Callable[[int], None],
    ) -> None:
        self.source = source
        self.target = target
        self.bitmap = bitmap
        self.ops = OpsInFlight(bitmap.granularity)
        self.bytes_in_flight = 0
        self._host = host
        self._unmap = unmap
        self._failed = failed
        self._copied = copied
        self._position = 0
        self._turn: int | None = None
        self._buffered = 0
        granularity = bitmap.granularity
        self._buf_size = align_up(buf_size, granularity)
        self._cluster = skip_filters(target).cluster_size or 1
        self._clusters = clusters_without_backing(target, bitmap)
        self._aligns = self._clusters is not None and granularity < self._cluster
        if self._aligns:
            self._buf_size = max(self._buf_size, self._cluster)
        self._max_io = max(self._buf_size // MAX_IN_FLIGHT, MAX_IO_BYTES)
        self._data = DataCopier(host, source, target, self._max_io)

    def is_full(self) -> bool:
        """Return whether nothing can begin before something has ended."""
        return len(self.ops.own) >= MAX_IN_FLIGHT or self._buffered >= self._buf_size

    async def iteration(self, account: Callable[[int], int]) -> int:
        """Begin to copy the next dirty area; return how long to wait for the speed limit, in ns.

        (mirror_iteration.)  `account` charges copied bytes and returns that time.  `rest` is
        what has not begun yet: it stands in `ops` for its range, so that no guest's write
        comes in between.
        """
        rest = await self._next_area()
        if rest is None:
            return 0
        self._position = rest.end
        self.bitmap.reset(rest.offset, rest.nbytes)
        self.ops.own.append(rest)
        self.bytes_in_flight += rest.nbytes
        delay_ns = 0
        try:
            while rest.nbytes:
                extent = await self._status(rest)
                if extent.data and extent.length > rest.nbytes:
                    delay_ns = account(await self._begin_several(rest, extent.length))
                    continue
                stop = self._clip(rest.offset + extent.length, rest)
                while rest.offset < stop:
                    most = self._max_io if extent.data else MAX_ZERO_BYTES
                    part = Op(rest.offset, min(stop, rest.offset + most))
                    delay_ns = account(await self._begin(part, rest, extent))
        finally:
            self.bytes_in_flight -= rest.nbytes
            self.ops.own.remove(rest)
        return delay_ns

    async def _next_area(self) -> Op | None:
        """Return the next dirty granules, as far as nothing is in the way, up to the buffer's size.

        None if nothing is dirty.  Wait if the first of them is on its way.
        """
        # After a failed part, what follows it has its turn.
        if self._turn is not None:
            self._position, self._turn = self._turn, None
        while True:
            area = self.bitmap.next_dirty_area(self._position, max_length=self._buf_size)
            if area is None and self._position:
                area = self.bitmap.next_dirty_area(0, max_length=self._buf_size)
            if area is None:
                return None
            found = Op(area[0], sum(area))
            free = self.ops.free_until(found.offset, found.end)
            if free > found.offset:
                return Op(found.offset, free)
            await self.ops.alone(found)

    def _horizon(self, rest: Op) -> int:
        """Return how many bytes from `rest` on to ask the status of.

        More than the area if it is small and may be copied past the nodes: then other
        small areas in the same data are copied by the same call.
        """
        if rest.nbytes < self._max_io and not self._aligns:
            if self._data.has_shortcut(rest.offset, rest.nbytes):
                return min(MAX_ZERO_BYTES, self.bitmap.size - rest.offset)
        return rest.nbytes

    def _clip(self, stop: int, rest: Op) -> int:
        """Return `stop` at the end of a whole granule, at least one, within `rest`.

        The last granule of the drive may be short.
        """
        granularity = self.bitmap.granularity
        if stop < rest.end:
            stop -= stop % granularity
        return min(max(stop, rest.offset + granularity), rest.end)

    async def _status(self, rest: Op) -> Extent:
        """Return what is at the beginning of `rest`.

        What cannot be found out counts as data, and the copy will fail.  A granule that is of
        one kind in a part only counts as data as well.
        """
        length = self._horizon(rest)
        try:
            extent = await self.source.block_status(rest.offset, length)
        except OSError:
            return Extent(rest.nbytes, data=True, zero=False)
        if extent.length < min(self.bitmap.granularity, length):
            return extent._replace(data=True)
        return extent

    async def _begin(self, op: Op, rest: Op, extent: Extent) -> int:
        """Start one part, taken from `rest`; return its bytes that count for the speed limit."""
        at_end = op.end == self.bitmap.size
        whole = not (op.offset % self._cluster or (op.end % self._cluster and not at_end))
        taken = op.nbytes
        if extent.data or not whole:
            self._align_to_clusters(op)
            op.buffered = op.nbytes
        await Until(lambda: len(self.ops.own) <= MAX_IN_FLIGHT and self._fits(op.buffered))
        # From here on nothing waits: the range passes from `rest` to `op` in one step.
        rest.offset += taken
        self.bytes_in_flight -= taken
        if op.buffered:
            self._start(op, self._data.copy(op.offset, op.nbytes))
        elif extent.zero:
            self._start(op, self.target.zero(op.offset, op.nbytes, may_unmap=self._unmap))
        else:
            self._start(op, self.target.discard(op.offset, op.nbytes))
        return op.buffered

    async def _begin_several(self, rest: Op, known: int) -> int:
        """Start `rest`, together with what else is dirty in the `known` bytes of data from there.

        To begin a part costs as much as to copy a small one, and guests who write here and
        there leave many.  Return the bytes that count for the speed limit.
        """
        await Until(lambda: len(self.ops.own) <= MAX_IN_FLIGHT and self._fits(rest.nbytes))
        most = min(self._max_io, max(self._buf_size - self._buffered, rest.nbytes))
        # Take dirty areas as long as they fit into a call and its buffer, nothing is on its way
        # to them, and they may be copied past the nodes.  From here on nothing waits: what is
        # free stays free.
        parts = [(rest.offset, rest.nbytes)]
        whole = Op(rest.offset, rest.end, rest.nbytes)
        granularity = self.bitmap.granularity
        end = rest.offset + known
        if end < self.bitmap.size:
            end -= end % granularity
        while len(parts) < MAX_PARTS:
            room = align_down(most - whole.buffered, granularity)
            if not room:
                break
            more = self.bitmap.next_dirty_area(whole.end, end, max_length=room)
            if more is None or self.ops.free_until(more[0], sum(more)) < sum(more):
                break
            if not self._data.has_shortcut(*more):
                break
            self.bitmap.reset(*more)
            whole.end = sum(more)
            whole.buffered += more[1]
            parts.append(more)
        self._position = whole.end
        self.bytes_in_flight += whole.buffered - rest.nbytes
        self._buffered += whole.buffered
        self.ops.own.append(whole)
        rest.offset = rest.end
        self._host.spawn(self._carry_out_several(whole, parts))
        return whole.buffered

    async def _carry_out_several(self, op: Op, parts: list[Part]) -> None:
        """Copy the parts until one fails; then the policy decides, and later parts are dirty again.

        The part after the failed one has its turn next, even if one part always fails.
        """
        try:
            done, error = await self._data.copy_all(parts)
            self._copied(sum(length for _, length in parts[:done]))
            for part in parts[:done]:
                self._has(*part)
            if error is not None:
                for part in parts[done + 1 :]:
                    self.bitmap.set(*part)
                self._turn = sum(parts[done])
                self._not_copied(*parts[done], error)
        finally:
            self.ops.own.remove(op)
            self.bytes_in_flight -= op.buffered
            self._buffered -= op.buffered

    def _fits(self, nbytes: int) -> bool:
        return not nbytes or not self._buffered or self._buffered + nbytes <= self._buf_size

    def _align_to_clusters(self, op: Op) -> None:
        if self._aligns:
            op.offset, op.end = self.widened(op.offset, op.end)

    def widened(self, offset: int, end: int) -> tuple[int, int]:
        """Return the range, widened to whole clusters if the target cannot fill one of them yet."""
        clusters = self._clusters
        return (offset, end) if clusters is None else clusters.widened(offset, end)

    async def copy_clusters(self, offset: int, length: int) -> None:
        """Copy whole clusters that the target lacks, after a guest's write to the source."""
        await self._data.copy(offset, length)
        self._has(offset, length)

    def _has(self, offset: int, length: int) -> None:
        if self._clusters is not None:
            self._clusters.has(offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Begin to make a range of the target zero; it does not count as progress."""
        op = Op(offset, offset + length)
        work = self.target.zero(offset, length, may_unmap=self._unmap)
        self._start(op, work, counts=False)

    def _start(self, op: Op, work: Awaitable[None], *, counts: bool = True) -> None:
        self.ops.own.append(op)
        self.bytes_in_flight += op.nbytes
        self._buffered += op.buffered
        self._host.spawn(self._carry_out(op, work, counts))

    async def _carry_out(self, op: Op, work: Awaitable[None], counts: bool) -> None:
        try:
            await work
        except OSError as exc:
            self._not_copied(op.offset, op.nbytes, exc)
        else:
            if counts:
                self._copied(op.nbytes)
            self._has(op.offset, op.nbytes)
        finally:
            self.ops.own.remove(op)
            self.bytes_in_flight -= op.nbytes
            self._buffered -= op.buffered

    def _not_copied(self, offset: int, length: int, exc: OSError) -> None:
        self.bitmap.set(offset, length)
        self._failed(exc)
