# SPDX-License-Identifier: MIT
"""The kind of fault that changes data: what is read, or what reaches the medium."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from blockcore.faults.dice import BLOCK
from blockcore.faults.lost import WRITE
from blockcore.faults.options import WRITES, FaultOptions, Go, IOTypes, R, Request
from blockcore.faults.scene import Scene
from blockcore.qapi.names import FaultIOType, QmpError, UInt32
from blockcore.qapi.record import dataclass

READ: IOTypes = frozenset({FaultIOType.READ})


class CorruptHow(StrEnum):
    """What becomes of data."""

    FLIP = "flip"
    ZERO = "zero"
    RANDOM = "random"
    STALE = "stale"
    BYTE = "byte"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrupt(FaultOptions):
    """Options of a rule that changes data on its way.

    `flip` inverts `bits` bits in each block of 4096 bytes, `zero` and `random` replace
    all bytes, `stale` gives what was there before writes that came while the
    rule stands.  What is read of a place is the same each time.  `byte` sets one byte
    of each request, the one at `at` (from 0) to `value`; without `at` it is any byte,
    without `value` it gets any value, others at each request.

    Without `medium` the rule is about reads, and the medium keeps what was
    written: without the rule it is read again.  With `medium` the rule is about writes,
    and what they put on the medium is wrong.  In both cases only bytes within the
    rule's range change.
    """

    possible: ClassVar[IOTypes] = READ | WRITE

    how: CorruptHow = CorruptHow.FLIP
    bits: UInt32 = UInt32(1)
    at: UInt32 | None = None
    value: UInt32 | None = None
    medium: bool = False

    @property
    def usual(self) -> IOTypes:
        return WRITE if self.medium else READ

    @property
    def watched(self) -> IOTypes:
        return WRITES if self.how is CorruptHow.STALE else frozenset()

    @property
    def draws(self) -> bool:
        return self.how is CorruptHow.BYTE and None in (self.at, self.value)

    def check(self) -> None:
        FaultOptions.check(self)
        if self.iotypes != self.usual:
            wanted = "'write'" if self.medium else "'read', unless 'medium' is true"
            raise QmpError(f"Parameter 'iotype' expects {wanted}")
        if self.medium and self.how is CorruptHow.STALE:
            raise QmpError("Parameter 'how' value 'stale' is for reads: 'drop' loses writes")
        for name, value in (("at", self.at), ("value", self.value)):
            if value is not None and self.how is not CorruptHow.BYTE:
                raise QmpError(f"Parameter '{name}' is for 'how' byte")
        if self.bits != 1 and self.how is not CorruptHow.FLIP:
            raise QmpError("Parameter 'bits' is for 'how' flip")
        if self.value is not None and self.value > 255:
            raise QmpError("Parameter 'value' expects a number from 0 to 255")
        if not 0 < self.bits <= BLOCK * 8:
            raise QmpError(f"Parameter 'bits' expects a number from 1 to {BLOCK * 8}")

    def new_memory(self) -> dict[int, bytes]:
        """Return what was on blocks before they were written, by the number of the block."""
        return {}

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        if request.iotype is FaultIOType.WRITE:
            data = memoryview(bytearray(request.data))
            self._change(request._replace(buf=data), scene)
            return await go(request._replace(buf=data))
        result = await go(request)
        if request.buf is not None:
            self._change(request, scene)
        return result

    def _change(self, request: Request, scene: Scene) -> None:
        """Change the bytes of a request's buffer that are within the rule's range."""
        first, end = self.byte_range
        low = request.offset if first is None else max(first, request.offset)
        high = request.offset + request.nbytes
        high = high if first is None else min(end, high)
        if self.how is CorruptHow.BYTE:
            self._set_byte(request, low, high, scene)
            return
        for start in range(low - low % BLOCK, high, BLOCK):
            begin, stop = max(start, low), min(start + BLOCK, high)
            part = request.data[begin - request.offset : stop - request.offset]
            self._change_block(part, start, begin - start, scene)

    def _set_byte(self, request: Request, low: int, high: int, scene: Scene) -> None:
        """Set one byte of a request's buffer, if it is from `low` to `high` (bytes of the node)."""
        dice = scene.thrown
        assert dice is not None or not self.draws
        at = request.offset + (self.at or 0)
        if self.at is None and dice is not None:
            at = low + dice.below(high - low)
        value: int | None = self.value
        if value is None and dice is not None:
            value = dice.below(256)
        assert value is not None
        if low <= at < high:
            request.data[at - request.offset] = value

    def _change_block(self, part: memoryview, start: int, skip: int, scene: Scene) -> None:
        """Change a part of the block at `start`, from byte `skip` of it on."""
        dice = scene.place(FaultIOType.READ, start)
        if self.how is CorruptHow.ZERO:
            part[:] = bytes(len(part))
        elif self.how is CorruptHow.RANDOM:
            part[:] = dice.octets(BLOCK)[skip : skip + len(part)]
        elif self.how is CorruptHow.STALE:
            old = scene.state.memory.get(start)
            if old is not None:
                part[:] = old[skip : skip + len(part)]
        else:
            for bit in dice.several(self.bits, BLOCK * 8):
                at = bit // 8 - skip
                if 0 <= at < len(part):
                    part[at] ^= 1 << bit % 8

    async def watch(
        self, request: Request, go: Go[R], driver: Go[Any], scene: Scene
    ) -> R:
        """Keep what is on the medium before the first write to a block, for `stale`."""
        old = scene.state.memory
        first, end = request.offset, request.offset + request.nbytes
        for start in range(first - first % BLOCK, end, BLOCK):
            if start not in old and start < scene.size:
                data = memoryview(bytearray(min(BLOCK, scene.size - start)))
                await driver(Request(FaultIOType.READ, start, len(data), data))
                old.setdefault(start, bytes(data))
        return await go(request)
