# SPDX-License-Identifier: MIT
"""The kinds of fault of a medium that refuses: sectors that cannot be read, and no writing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from errno import EIO, EPERM
from typing import Any, ClassVar

from blockcore.faults.corrupt import READ
from blockcore.faults.options import SECTOR_SIZE, WRITES, FaultOptions, Go, IOTypes, R, Request
from blockcore.faults.scene import Scene
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import QmpError, UInt32
from blockcore.qapi.record import dataclass


class Healed:
    """The sectors that were written again: disjoint ranges [start, end) of sector numbers."""

    __slots__ = ("ends", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add a range."""
        first = bisect_left(self.ends, start)
        last = bisect_right(self.starts, end)
        if first < last:
            start, end = min(start, self.starts[first]), max(end, self.ends[last - 1])
        self.starts[first:last] = [start]
        self.ends[first:last] = [end]

    def has(self, start: int, end: int) -> bool:
        """Return whether all of a range is healed."""
        at = bisect_right(self.starts, start)
        return at > 0 and self.ends[at - 1] >= end


@dataclass(frozen=True, slots=True, kw_only=True)
class BadBlock(FaultOptions):
    """Options of a rule whose sectors cannot be read until they are written (dm-dust).

    A read that touches a sector of the rule's range fails with EIO.  A write,
    a discard or zeroes heal what they touch, in blocks of `block_size` bytes that begin
    with the range's first sector.
    """

    possible: ClassVar[IOTypes] = READ

    block_size: UInt32 = UInt32(SECTOR_SIZE)

    def check(self) -> None:
        FaultOptions.check(self)
        if self.block_size < SECTOR_SIZE or self.block_size & (self.block_size - 1):
            raise QmpError("Parameter 'block-size' expects a power of two, from 512 on")

    @property
    def usual(self) -> IOTypes:
        return READ

    @property
    def watched(self) -> IOTypes:
        return WRITES

    def new_memory(self) -> Healed:
        return Healed()

    def strikes(self, offset: int, nbytes: int, memory: Healed) -> bool:
        first, end = self.byte_range
        start, stop = offset, offset + nbytes
        if first is not None:
            start, stop = max(first, start), min(end, stop)
        return not memory.has(*sectors(start, stop))

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        raise failure(EIO)

    async def watch(
        self, request: Request, go: Go[R], driver: Go[Any], scene: Scene
    ) -> R:
        result = await go(request)
        first = (self.byte_range[0] or 0) // SECTOR_SIZE * SECTOR_SIZE
        begin = max(request.offset - first, 0) // self.block_size
        end = -(-(request.offset + request.nbytes - first) // self.block_size)
        places = (first + begin * self.block_size, first + end * self.block_size)
        scene.state.memory.add(*sectors(*places))
        return result


def sectors(start: int, end: int) -> tuple[int, int]:
    """Return the sectors that a range of bytes touches, as a range of their numbers."""
    return start // SECTOR_SIZE, -(-end // SECTOR_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOnly(FaultOptions):
    """Options of a rule that refuses to change the medium, with EPERM."""

    possible: ClassVar[IOTypes] = WRITES

    @property
    def usual(self) -> IOTypes:
        return WRITES

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        raise failure(EPERM)
