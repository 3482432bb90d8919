# SPDX-License-Identifier: MIT
"""The medium below a volatile cache: what is brought there, and what was there before.

A flush is many writes.  Until it has come to its end a crash may leave any of them, or
none, so what the medium had before each of them is kept: a crash clone shows it, and a
power cut puts it back.  So the states that a crash might leave are the same at each
moment of a flush.

What a disk has kept of its writes when its power goes is nobody's request: no fault
rule below is about it, and none is about what is read to be kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Protocol

from blockcore.faults.options import SECTOR_SIZE
from blockcore.nodes.driver import NodeHost
from blockcore.nodes.filter import FilterNode
from blockcore.nodes.zeroes import is_zero
from blockcore.qapi.errnos import reason_of
from blockcore.rules.crash_states import Refused
from blockcore.rules.extents import Extents, Range, Segment

JOINED_BYTES = 1 << 20
"""Bytes up to which neighbouring pieces are written back in one request."""

ROOM = 64 << 20
"""Bytes of what was there before that are kept at least, however small the cache is."""


class Watcher(Protocol):
    """Somebody who has to know what the medium has before it changes."""

    async def before_change(self, start: int, end: int) -> None:
        """Save what the medium has from `start` to `end` bytes, as far as `before` has it not."""


class Platter:
    """The node below `cache` as its medium.

    `before` has what was there where writing back has changed it, and has not come to
    its end.  `arriving` is a piece that is being written over something that could not
    be kept: it may be there, and will be.
    """

    def __init__(self, cache: FilterNode, host: NodeHost) -> None:
        self.before = Extents()
        self.arriving: Segment | None = None
        self.watchers: list[Watcher] = []
        self._cache = cache
        self._host = host
        self._octets = 0

    async def write(self, piece: Segment, room: int, *, fua: bool) -> bool:
        """Write a piece, when what is there is kept in `room` bytes; raise OSError.

        Return whether it could be kept.  If not, what is written cannot be lost any more.
        """
        kept = await self._keep(piece, room)
        if not kept:
            self.arriving = piece
        try:
            await self._put(piece, fua=fua)
        finally:
            self.arriving = None
        return kept

    def forget(self, start: int, end: int) -> None:
        """Forget what was there before: what has been written to a range is there for certain."""
        if len(self.before):
            self.before.cut(start, end, 0)
            self._octets = octets(self.before)

    async def leave(self, pieces: Iterable[Segment]) -> list[Refused]:
        """Put back what was there before, with pieces over it, for a medium that has lost power.

        Return what it could not get.
        """
        wanted = Extents()
        for piece in (*self.before, *pieces):
            wanted.put(piece)
        refused: list[Refused] = []
        with self._host.asker().past_rules():
            for piece in list(joined(wanted)):
                try:
                    await self._put(piece, fua=False)
                except OSError as exc:
                    for one in await self._missing(piece, reason_of(exc)):
                        _append(refused, one)
            if len(wanted):
                # The node below may be a cache as well, or keep tables in memory.
                with suppress(OSError):
                    await self._cache.below.flush()
        self.before, self._octets = Extents(), 0
        return refused

    async def _put(self, piece: Segment, *, fua: bool) -> None:
        start, end, data, _, unmap = piece
        for watcher in list(self.watchers):
            await watcher.before_change(start, end)
        below = self._cache.below
        if data is not None:
            await below.pwrite(start, data, fua=fua)
        else:
            unmap = unmap and below.options.discard_unmap
            await below.zero(start, end - start, may_unmap=unmap, fua=fua)

    async def _keep(self, piece: Segment, room: int) -> bool:
        gaps = self.before.gaps(piece.start, piece.end)
        found: list[Segment] = []
        try:
            with self._host.asker().past_rules():
                for low, high in gaps:
                    found += await self._known(low, high, whole=piece.data is not None)
                taken = self._octets + octets(found)
                if taken > max(room, ROOM):
                    return False
                for part in found:
                    data = None if part.data is None else await self._read(part.start, part.end)
                    if data is not None and is_zero(data):
                        data = None
                    self.before.fill(Segment(part.start, part.end, data, 0, data is None))
        except OSError:
            self._octets = octets(self.before)
            return False
        self._octets = taken
        return True

    async def _known(self, start: int, end: int, *, whole: bool) -> list[Segment]:
        """Return the parts of a range, those that read as zeroes without data; raise OSError.

        The others have data that is not read yet.  `whole`: all of it is to be read.
        """
        if whole:
            return [Segment(start, end, memoryview(b""), 0)]
        found: list[Segment] = []
        while start < end:
            extent = await self._cache.below.block_status(start, end - start)
            stop = start + extent.length
            if not extent.zero:
                stop = min(stop, start + JOINED_BYTES)
            data = None if extent.zero else memoryview(b"")
            found.append(Segment(start, stop, data, 0, extent.zero))
            start = stop
        return found

    async def _read(self, start: int, end: int) -> memoryview:
        data = memoryview(bytearray(end - start))
        await self._cache.below.pread(start, data)
        return data

    async def _missing(self, piece: Segment, reason: str) -> list[Refused]:
        """Return the sectors of a piece that the medium has not got, though it has failed."""
        found: list[Refused] = []
        try:
            for part in await self._known(piece.start, piece.end, whole=piece.data is not None):
                if part.data is None:
                    continue
                has = await self._read(part.start, part.end)
                for low, high in sectors_of(part.start, part.end):
                    wanted = piece.clipped(low, high).data or bytes(high - low)
                    if has[low - part.start : high - part.start] != wanted:
                        found.append(Refused(low, high, reason))
        except OSError:
            return [Refused(piece.start, piece.end, reason)]
        return found


def _append(refused: list[Refused], one: Refused) -> None:
    """Append a range to a list, as one with the last if that ends there for the same reason."""
    if refused and (refused[-1].end, refused[-1].reason) == (one.start, one.reason):
        refused[-1] = refused[-1]._replace(end=one.end)
    else:
        refused.append(one)


def sectors_of(start: int, end: int) -> Iterator[Range]:
    """Yield the sectors of a range of bytes, clipped to it."""
    while start < end:
        stop = min(end, (start // SECTOR_SIZE + 1) * SECTOR_SIZE)
        yield start, stop
        start = stop


def octets(pieces: Iterable[Segment]) -> int:
    """Return how many bytes of pieces are in memory."""
    return sum(piece.end - piece.start for piece in pieces if piece.data is not None)


def joined(pieces: Iterable[Segment]) -> Iterator[Segment]:
    """Yield sorted pieces, neighbours with data as one, up to `JOINED_BYTES`."""
    run: list[Segment] = []
    for piece in pieces:
        if run and not _fits(run, piece):
            yield _one(run)
            run = []
        run.append(piece)
    if run:
        yield _one(run)


def _fits(run: list[Segment], piece: Segment) -> bool:
    first, last = run[0], run[-1]
    return (
        first.data is not None
        and piece.data is not None
        and last.end == piece.start
        and piece.end - first.start <= JOINED_BYTES
    )


def _one(run: list[Segment]) -> Segment:
    if len(run) == 1:
        return run[0]
    data = memoryview(b"".join(piece.data or b"" for piece in run))
    return run[0]._replace(end=run[-1].end, data=data)
