# SPDX-License-Identifier: MIT
"""The kinds of fault that tell a request as done and do something else.

All of them are about what changes the medium: `Drop` loses it, `Torn` does a
part of a write, `Duplicate` does it twice, `Misdirect` does it elsewhere.
"""

from __future__ import annotations

from enum import StrEnum
from errno import EIO
from typing import Annotated, Any, ClassVar

from blockcore.faults.dice import Dice
from blockcore.faults.options import SECTOR_SIZE, WRITES, FaultOptions, Go, IOTypes, R, Request
from blockcore.faults.scene import Scene
from blockcore.qapi.errno_types import KNOWN_ERRNO
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import FaultIOType, QmpError, UInt32
from blockcore.qapi.record import dataclass

WRITE: IOTypes = frozenset({FaultIOType.WRITE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(FaultOptions):
    """Options of a rule whose requests are told as done, and never carried out.

    A dropped flush is one that lies: nothing becomes stable.
    """

    possible: ClassVar[IOTypes] = WRITES | {FaultIOType.FLUSH}

    @property
    def usual(self) -> IOTypes:
        return WRITES

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> Any:
        return None


class TornKeep(StrEnum):
    """The sectors of a torn write that are on the medium."""

    PREFIX = "prefix"
    SUFFIX = "suffix"
    RANDOM = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class Torn(FaultOptions):
    """Options of a rule whose writes are carried out for some of their sectors.

    `sectors` of 512 bytes are written, at the beginning, at the end or anywhere in the
    request; without `sectors`, any number from 0 to all but one.  The others keep
    what they had.  Then the request fails with `errno`, or is told as done if
    that is 0.
    """

    possible: ClassVar[IOTypes] = WRITE

    keep: TornKeep = TornKeep.PREFIX
    sectors: UInt32 | None = None
    errno: Annotated[int, KNOWN_ERRNO] = EIO

    @property
    def usual(self) -> IOTypes:
        return WRITE

    @property
    def draws(self) -> bool:
        return True

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> Any:
        dice = scene.thrown
        assert dice is not None
        offset, stop = request.offset, request.offset + request.nbytes
        first = offset // SECTOR_SIZE
        for start, end in runs(self.kept(-(-stop // SECTOR_SIZE) - first, dice)):
            low = max((first + start) * SECTOR_SIZE, offset)
            part = request.data[low - offset : (first + end) * SECTOR_SIZE - offset]
            await go(request._replace(offset=low, nbytes=len(part), buf=part))
        if self.errno > 0:
            raise failure(self.errno)

    def kept(self, total: int, dice: Dice) -> list[int]:
        """Return the numbers of those of `total` sectors that are written, in order."""
        count = dice.below(total) if self.sectors is None else min(self.sectors, total)
        if self.keep is TornKeep.PREFIX:
            return list(range(count))
        if self.keep is TornKeep.SUFFIX:
            return list(range(total - count, total))
        # Each sector in turn is kept with the chance that leaves `count` of all (Knuth's method S).
        kept: list[int] = []
        for number in range(total):
            if dice.below(total - number) < count - len(kept):
                kept.append(number)
        return kept


def runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Return sorted numbers as runs [start, end)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Misdirect(FaultOptions):
    """Options of a rule whose requests go `by` bytes further on, or back if that is negative.

    A request that would be outside the node fails with EIO.
    """

    possible: ClassVar[IOTypes] = WRITES | {FaultIOType.READ}

    by: int = 0

    @property
    def usual(self) -> IOTypes:
        return WRITE

    def check(self) -> None:
        FaultOptions.check(self)
        if not self.by:
            raise QmpError("Parameter 'by' expects a number of bytes other than zero")

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        offset = request.offset + self.by
        if offset < 0 or offset + request.nbytes > scene.size:
            raise failure(EIO)
        return await go(request._replace(offset=offset))


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate(FaultOptions):
    """Options of a rule whose requests are carried out twice."""

    possible: ClassVar[IOTypes] = WRITES | {FaultIOType.FLUSH}

    @property
    def usual(self) -> IOTypes:
        return WRITES

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        await go(request)
        return await go(request)
