# SPDX-License-Identifier: MIT
"""The filter x-volatile-cache: a drive's write cache, whose contents are lost with the power.

It keeps what is written, and reads see it.  A flush brings it to the node below, the
medium; so does the orderly end of the node.  A write with FUA brings its own bytes
there.  What has to be kept of more than `size` bytes is written back, the oldest
first.  `machine/power.py` cuts the power; `crash_clone.py` beside this module shows
what that would leave.
"""

from __future__ import annotations

from collections.abc import Iterable

from blockcore.bql.lock import Lock
from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevOptionsVolatileCache
from blockcore.nodes.driver import Extent, NewChildren, NodeHost, NodeOptions
from blockcore.nodes.drivers.platter import Platter, joined
from blockcore.nodes.filter import FilterNode
from blockcore.nodes.making import Making
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import Pair, Perm, filtered_child
from blockcore.nodes.shortcut.way import Way
from blockcore.qapi.errnos import HungUp
from blockcore.qapi.names import QmpError
from blockcore.rules.crash_states import CrashState, Left
from blockcore.rules.extents import Segment
from blockcore.rules.write_log import WriteLog

DEFAULT_SIZE = 64 << 20
"""Bytes that a cache keeps unless told otherwise, as large disks have; 512 are an entry's own."""


class VolatileCacheNode(FilterNode):
    """A filter that keeps at most `limit` bytes of writes in a log before it passes them on.

    While `powered` is false every request fails with ESHUTDOWN, as one that is hung up on.
    """

    driver = "x-volatile-cache"
    filters = "file"
    is_volatile = True
    mutable_opts = frozenset(("size",))

    def __init__(
        self, options: NodeOptions, host: NodeHost, file: BlockNode, limit: int = DEFAULT_SIZE
    ) -> None:
        super().__init__(options, host, file)
        self.limit = limit
        self.log = WriteLog()
        self.powered = True
        self.platter = Platter(self, host)
        self._lock = Lock()

    @classmethod
    async def make(
        cls, definition: BlockdevOptionsVolatileCache, making: Making
    ) -> VolatileCacheNode:
        _check_size(definition)
        file = await making.child(definition.file)
        return cls(making.options, making.host, file, definition.size or DEFAULT_SIZE)

    def child_permissions(self, name: str, perm: Perm, shared: Perm) -> Pair:
        """Return a filter's permissions, and that to write back: nobody else may write below."""
        needs, shares = filtered_child(perm, shared)
        if self.read_only:
            return needs, shares
        return needs | Perm.WRITE, shares & ~(Perm.WRITE | Perm.RESIZE)

    async def do_reopen(
        self, options: NodeOptions, definition: BlockdevOptions, children: NewChildren
    ) -> None:
        """Write everything back: the node may become read-only, or get another child."""
        if isinstance(definition, BlockdevOptionsVolatileCache):
            _check_size(definition)
        await self.write_back()

    def reconfigured(self) -> None:
        if isinstance(self.definition, BlockdevOptionsVolatileCache):
            self.limit = self.definition.size or DEFAULT_SIZE
        super().reconfigured()

    async def do_close(self) -> None:
        """Write back what no flush has: with cache.no-flush, or a rule that drops flushes."""
        if self.powered:
            await self.write_back()

    async def flush(self, *, of_write: bool = False) -> None:
        if len(self.log):
            # A rule may have dropped the flush that this generation has had.
            self.traces.generation += 1
        await super().flush(of_write=of_write)

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        self._check_power()
        newest, end = self.log.newest, offset + len(buf)
        # Before the read, because a flush may forget it meanwhile; after it, because what a write
        # has changed meanwhile is newer than what is below.
        show(newest.within(offset, end), offset, buf)
        for low, high in newest.gaps(offset, end):
            await self.below.pread(low, buf[low - offset : high - offset])
        show(self.log.newest.within(offset, end), offset, buf)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        data = bytes(buf)
        await self._make_room(len(data))
        self.log.write(offset, data)

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        await self._make_room(0)
        self.log.zero(offset, length, unmap=may_unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        """Keep a discard as zeroes that may be deallocated: reads are told the same all along."""
        await self.do_zero(offset, length, True)

    async def do_flush(self) -> None:
        self._check_power()
        await self.write_back()

    async def do_block_status(self, offset: int, length: int) -> Extent:
        self._check_power()
        known = next(iter(self.log.newest.within(offset, offset + length)), None)
        if known is None or known.start > offset:
            gap = length if known is None else known.start - offset
            return await self.below.block_status(offset, gap)
        zero = known.data is None
        return Extent(known.end - offset, data=not (zero and known.unmap), zero=zero)

    async def do_is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        known = next(iter(self.log.newest.within(offset, offset + length)), None)
        if known is None or known.start > offset:
            gap = length if known is None else known.start - offset
            return await self.below.is_allocated(offset, gap)
        return True, known.end - offset

    async def do_truncate(self, size: int) -> None:
        if self.platter.watchers:
            raise QmpError(f"Node '{self.node_name}' has crash clones, which have its length")
        await self.write_back()
        await super().do_truncate(size)

    def do_way(self) -> Way | None:
        return None

    async def write_back(self) -> None:
        """Bring all writes that have ended to the medium, and flush it; raise OSError.

        After an error the log is as it was, and nothing is lost.
        """
        with (await self._turn()).held():
            number = self.log.last
            await self._write(joined(self.log.newest), number, fua=False)
            await self.below.flush()
            self._check_power()
            self._settle(number, 0, self.size)

    async def end_fua(self, start: int, end: int, *, of_write: bool) -> None:
        """Bring what reads see of a range to the medium, for certain; raise OSError."""
        with (await self._turn()).held():
            number = self.log.last
            await self._write(joined(self.log.newest.within(start, end)), number, fua=True)
            self._settle(number, start, end)

    async def _make_room(self, nbytes: int) -> None:
        """Write the oldest writes back until there is room for a new one; raise OSError."""
        self._check_power()
        while len(self.log) and self.log.cost + nbytes > self.limit:
            with (await self._turn()).held():
                if not len(self.log) or self.log.cost + nbytes <= self.limit:
                    continue
                oldest = self.log.oldest()
                await self._write(oldest.pieces(), oldest.number, fua=False)
                for start, end in oldest.live:
                    self.platter.forget(start, end)
                if self.log.get(oldest.number) is not None:
                    self.log.written(oldest.number)

    async def _write(self, pieces: Iterable[Segment], number: int, *, fua: bool) -> None:
        """Write pieces of writes up to `number` to the medium; raise OSError."""
        for piece in list(pieces):
            self._check_power()
            if not await self.platter.write(piece, self.limit, fua=fua):
                self._settle(number, piece.start, piece.end)
        self._check_power()

    def _settle(self, number: int, start: int, end: int) -> None:
        self.log.settled(number, start, end)
        self.platter.forget(start, end)

    def lose_power(self) -> None:
        """Fail all requests from now on, until `restore_power`; what the log has stays."""
        self.powered = False

    def is_at_rest(self) -> bool:
        """Return whether nothing is being written back."""
        return self._lock.is_free()

    async def restore_power(self, state: CrashState) -> Left:
        """Let the medium have what a state keeps, and no more; forget the rest, and serve again.

        Writing back that is under way ends first.  What the medium refuses is lost, and
        is not in the state that is returned.
        """
        await self._lock.free()
        with self._lock.held():
            refused = await self.platter.leave(state.pieces(self.log))
            left = state.without(self.log, [(low, high) for low, high, _ in refused])
            counts = left.counts(self.log)
            self.log.clear()
            self.powered = True
        return Left(left, counts, refused)

    def _check_power(self) -> None:
        if not self.powered:
            raise HungUp

    async def _turn(self) -> Lock:
        """Return the lock under which the medium is written: older data must not follow newer.

        Raise OSError if the power is off: the request belongs to the time before.
        """
        self._check_power()
        await self._lock.free()
        # Those that wait get their turns in order: `restore_power` comes after all of these.
        self._check_power()
        return self._lock


def _check_size(definition: BlockdevOptionsVolatileCache) -> None:
    if definition.size == 0:
        raise QmpError("Parameter 'size' expects a value greater than zero")


def show(pieces: Iterable[Segment], offset: int, buf: memoryview) -> None:
    """Put pieces into a buffer that has the bytes from `offset` on."""
    for start, end, data, _, _ in pieces:
        buf[start - offset : end - offset] = bytes(end - start) if data is None else data
