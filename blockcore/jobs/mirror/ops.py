# SPDX-License-Identifier: MIT
"""What of a mirror is on its way, and who has to wait for it (`block/mirror.c`: ops_in_flight).

No two parts of the job, and no guest's write that goes to the target as well,
touch the same granule at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blockcore.bql.effects import Until
from blockcore.rules.ranges import align_down, align_up


@dataclass(slots=True, eq=False)
class Op:
    """A part on its way, in bytes; `buffered` of them are in memory.

    Of several small parts it is all from the first to the last.
    """

    offset: int
    end: int
    buffered: int = 0

    @property
    def nbytes(self) -> int:
        return self.end - self.offset


class OpsInFlight:
    """`own` are the job's, `active` the writes of guests that go to the target as well."""

    def __init__(self, granularity: int) -> None:
        self.own: list[Op] = []
        self.active: list[Op] = []
        self._granularity = granularity

    def __iter__(self) -> Iterator[Op]:
        yield from self.own
        yield from self.active

    async def one_ends(self) -> None:
        """Wait until one of the job's that are on their way has ended."""
        before = list(self.own)
        await Until(lambda: any(op not in self.own for op in before) or not before)

    async def all_end(self) -> None:
        """Wait until nothing of the job's is on its way."""
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
        """How far whole granules from `offset` on are free of what is on its way."""
        for op in self:
            if op.offset < end and offset < self._up(op.end):
                end = max(self._down(op.offset), offset)
        return end

    def _down(self, offset: int) -> int:
        return align_down(offset, self._granularity)

    def _up(self, offset: int) -> int:
        return align_up(offset, self._granularity)
