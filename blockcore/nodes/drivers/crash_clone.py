# SPDX-License-Identifier: MIT
"""One crash state of a volatile cache as a disk of its own, beside the live one.

Nothing is copied when it is made: it shows the medium below the cache, what the state
keeps of the cache's writes, and over both what its own client writes.  What the live
drive is about to change on the medium is saved first (copy-before-write).  All of
that is in memory.
"""

from __future__ import annotations

import errno

from blockcore.nodes.driver import Extent, NodeHost, NodeOptions
from blockcore.nodes.drivers.platter import octets
from blockcore.nodes.drivers.volatile_cache import VolatileCacheNode, show
from blockcore.nodes.node import BlockNode
from blockcore.qapi.errnos import HungUp, failure
from blockcore.rules.crash_states import CrashState
from blockcore.rules.extents import Extents, Segment

ROOM = 1 << 30
"""Bytes that the client's writes, and what is saved for it, may take in memory."""

SAVED_BYTES = 1 << 20
"""Bytes that are saved by one read."""


class CrashCloneNode(BlockNode):
    """A disk that shows `state` of `cache`; it has the cache's length as it is now.

    Without room the client's writes fail with ENOSPC.  If there is none to save what
    the live drive changes, or that cannot be read, the clone is `spoilt`: all its
    reads fail with EIO, and the live drive goes on.
    """

    driver = "x-crash-clone"

    def __init__(
        self,
        options: NodeOptions,
        host: NodeHost,
        cache: VolatileCacheNode,
        state: CrashState,
        room: int = ROOM,
    ) -> None:
        super().__init__(options, host)
        # For drained sections: who drains the cache waits for the clone's requests as well.
        # The cache does not have the clone among its parents: jobs and flushes pass it by.
        self.children["cache"] = cache
        self.cache = cache
        self.size = cache.size
        self.spoilt = False
        self.filename = f"{cache.node_name} after a crash: {state.name}"
        self._room = room
        self._taken = 0
        self._shown = Extents()
        platter = cache.platter
        for piece in (*platter.before, *state.pieces(cache.log)):
            # Its data is the cache's: it takes no memory until the cache forgets it.
            self._shown.put(piece)
        if platter.arriving is not None:
            # It is too late to save what is there.
            self._shown.fill(platter.arriving)
        platter.watchers.append(self)

    async def do_close(self) -> None:
        """Let the cache forget the clone, and the clone what it has."""
        self.cache.platter.watchers.remove(self)
        self._shown = Extents()

    async def before_change(self, start: int, end: int) -> None:
        """Save what the medium has from `start` to `end`, as far as the clone shows it."""
        if self.closed or self.spoilt:
            return
        for piece in self.cache.platter.before.within(start, end):
            for low, high in self._shown.gaps(piece.start, piece.end):
                self._keep(piece.clipped(low, high))
        try:
            with self._host.asker().past_rules():
                for low, high in self._shown.gaps(start, end):
                    await self._save(low, high)
        except OSError as exc:
            self._spoil(exc.strerror or "the medium cannot be read")

    async def _save(self, start: int, end: int) -> None:
        below = self.cache.below
        while start < end and not self.spoilt:
            extent = await below.block_status(start, end - start)
            length = extent.length if extent.zero else min(extent.length, SAVED_BYTES)
            data = None
            if not extent.zero:
                data = memoryview(bytearray(length))
                await below.pread(start, data)
            self._keep(Segment(start, start + length, data, 0, unmap=True))
            start += length

    def _keep(self, piece: Segment) -> None:
        """Show what the medium has had; what the client has written meanwhile stays."""
        if self.spoilt:
            return
        if piece.data is not None and not self._has_room(piece.start, piece.end):
            self._spoil("there is no memory for what the live drive changes")
            return
        self._shown.fill(piece)

    def _spoil(self, reason: str) -> None:
        self.spoilt = True
        self._shown = Extents()
        self._host.warn(f"the crash clone on {self.filename} is spoilt: {reason}")

    def _has_room(self, start: int, end: int) -> bool:
        """Take room for the bytes of a range, if there is some.

        What zeroes have replaced still counts, until there seems to be none.
        """
        more = end - start - octets(self._shown.within(start, end))
        if self._taken + more > self._room:
            self._taken = octets(self._shown)
        if self._taken + more > self._room:
            return False
        self._taken += more
        return True

    def _check(self) -> None:
        if self.closed:
            raise HungUp
        if self.spoilt:
            raise failure(errno.EIO)

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        self._check()
        end = offset + len(buf)
        for low, high in self._shown.gaps(offset, end):
            await self.cache.below.pread(low, buf[low - offset : high - offset])
        # What the live drive has changed meanwhile was saved before: it is here now.
        self._check()
        show(self._shown.within(offset, end), offset, buf)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        self._check()
        if not self._has_room(offset, offset + len(buf)):
            raise failure(errno.ENOSPC)
        self._shown.put(Segment(offset, offset + len(buf), memoryview(bytes(buf)), 0))

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        self._check()
        self._shown.put(Segment(offset, offset + length, None, 0, unmap=may_unmap))

    async def do_discard(self, offset: int, length: int) -> None:
        await self.do_zero(offset, length, True)

    async def flush(self, *, of_write: bool = False) -> None:
        """Do nothing: the clone is gone with the process, and the live drive is not its affair."""

    async def do_block_status(self, offset: int, length: int) -> Extent:
        self._check()
        known = next(iter(self._shown.within(offset, offset + length)), None)
        if known is None or known.start > offset:
            gap = length if known is None else known.start - offset
            return await self.cache.below.block_status(offset, gap)
        zero = known.data is None
        return Extent(known.end - offset, data=not (zero and known.unmap), zero=zero)
